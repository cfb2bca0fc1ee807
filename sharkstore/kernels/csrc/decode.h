// Stored rows to float32, a vector at a time. Spec: "Encodings".
#pragma once

#include "resolve.h"
#include "vector.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// The vectors of a row of Dim values; of a length known at run time only with Dim 0.
template <int Dim>
struct Columns {
  static constexpr int kLanes = Vec::kLanes;
  static constexpr int kRoom = ((Dim ? Dim : 4096) + kLanes - 1) / kLanes;
  int dim;

  SHARKSTORE_INLINE int values() const { return Dim ? Dim : dim; }

  template <class Use>
  SHARKSTORE_INLINE void each(Use use) const {
    if constexpr (Dim > 0) {
      SHARKSTORE_UNROLL
      for (int j = 0; j < kRoom; ++j) use(j);
    } else {
      const int count = (dim + kLanes - 1) / kLanes;
      for (int j = 0; j < count; ++j) use(j);
    }
  }

  // Fetches the lines of a row `ahead` values behind this one to be written, if there is one.
  SHARKSTORE_INLINE void prefetch(const float* row, std::int64_t ahead) const {
    const std::uintptr_t to = reinterpret_cast<std::uintptr_t>(row) + 4 * ahead;
    for (int at = 0; at < 4 * values(); at += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(to + at), 1, 2);
  }

  // Writes vector j of a row to `row`, and nothing behind the row's end.
  template <bool Stream>
  SHARKSTORE_INLINE void put(float* row, int j, Vec value) const {
    const int left = values() - j * kLanes;
    if constexpr (Stream) {
      value.stream(row + j * kLanes);
    } else if (left >= kLanes) {
      value.store(row + j * kLanes);
    } else {
      value.store_part(row + j * kLanes, left);
    }
  }
};

// Vector j of the codes at p, Size bytes each. What is left of a short row is loaded exactly: a
// whole vector would touch the next line, which nobody has asked for.
template <int Dim, int Size>
struct Part {
  static constexpr int kLanes = Dim % Vec::kLanes;
  const std::uint8_t* at;
  bool whole;

  SHARKSTORE_INLINE Part(const std::uint8_t* p, int j)
      : at(p + Size * j * Vec::kLanes), whole(kLanes == 0 || j < Dim / Vec::kLanes) {}
};

template <int Dim>
SHARKSTORE_INLINE Vec load_f32(const std::uint8_t* p, int j) {
  const Part<Dim, 4> part(p, j);
  return part.whole ? Vec::load_f32(part.at) : Vec::load_f32<part.kLanes>(part.at);
}
template <int Dim>
SHARKSTORE_INLINE Vec load_f16(const std::uint8_t* p, int j) {
  const Part<Dim, 2> part(p, j);
  return part.whole ? Vec::load_f16(part.at) : Vec::load_f16<part.kLanes>(part.at);
}
template <int Dim>
SHARKSTORE_INLINE Vec load_i8(const std::uint8_t* p, int j) {
  const Part<Dim, 1> part(p, j);
  return part.whole ? Vec::load_i8(part.at) : Vec::load_i8<part.kLanes>(part.at);
}
template <int Dim>
SHARKSTORE_INLINE Vec load_u8(const std::uint8_t* p, int j) {
  const Part<Dim, 1> part(p, j);
  return part.whole ? Vec::load_u8(part.at) : Vec::load_u8<part.kLanes>(part.at);
}

SHARKSTORE_INLINE Vec all_f32(const std::uint8_t* p) {
  float value;
  std::memcpy(&value, p, 4);
  return Vec::all(value);
}

// Calls use(j, values) for every vector j of a row of float32.
template <int Dim, class Use>
SHARKSTORE_INLINE void decode_f32(const std::uint8_t* p, Columns<Dim> columns, Use use) {
  columns.each([&](int j) SHARKSTORE_LAMBDA { use(j, load_f32<Dim>(p, j)); });
}

template <int Dim, class Use>
SHARKSTORE_INLINE void decode_f16(const std::uint8_t* p, Columns<Dim> columns, Use use) {
  columns.each([&](int j) SHARKSTORE_LAMBDA { use(j, load_f16<Dim>(p, j)); });
}

template <int Dim, class Use>
SHARKSTORE_INLINE void decode_symmetric(const std::uint8_t* codes, Vec step, Columns<Dim> columns,
                                        Use use) {
  columns.each([&](int j) SHARKSTORE_LAMBDA {
    use(j, load_i8<Dim>(codes, j) * step);
  });
}

template <int Dim, class Use>
SHARKSTORE_INLINE void decode_affine(const std::uint8_t* codes, Vec step, Vec bias,
                                     Columns<Dim> columns, Use use) {
  columns.each([&](int j) SHARKSTORE_LAMBDA {
    use(j, load_u8<Dim>(codes, j) * step + bias);
  });
}

// Codes of 4 or 2 bits: a vector's worth of them is whole bytes.
template <Kind K, int Dim, class Use>
SHARKSTORE_INLINE void decode_low_bits(const std::uint8_t* p, Vec factor, Columns<Dim> columns,
                                       Use use) {
  constexpr int kBits = code_bits(K);
  const auto head = [](const std::uint8_t* at) SHARKSTORE_LAMBDA {
    return is_half(K) ? Vec::all_f16(at) : all_f32(at);
  };
  const Vec step = is_affine(K) || !is_half(K) ? head(p) : head(p) * factor;
  const Vec bias = is_affine(K) ? head(p + head_bytes(K) / 2) : step;
  const std::uint8_t* codes = p + head_bytes(K);
  columns.each([&](int j) SHARKSTORE_LAMBDA {
    const std::uint8_t* at = codes + j * (kBits * Vec::kLanes / 8);
    use(j, Vec::low_bits<kBits, is_affine(K)>(at, step, bias));
  });
}

// Codes of a codebook, each for a few values. A vector of less than an entry has a part of one;
// the last one of a row may need more entries than there are: the last stands again.
template <Kind K, int Dim, class Use>
SHARKSTORE_INLINE void decode_codebook(const std::uint8_t* codes, const std::uint8_t* book,
                                       Columns<Dim> columns, Use use) {
  constexpr int kSub = sub_values(K), kBytes = entry_bytes(K);
  constexpr int kTaken = kSub < Vec::kLanes ? kSub : Vec::kLanes;
  const int last = (columns.values() - 1) / kSub;
  columns.each([&](int j) SHARKSTORE_LAMBDA {
    const int first = j * Vec::kLanes / kSub, within = j * Vec::kLanes % kSub;
    std::uint64_t word = 0;  // all codes of the vector at once: entries keep the loads busy
    std::memcpy(&word, codes + first, Vec::kLanes / kTaken);
    use(j, Vec::pieces<kTaken, kBytes>([&](int i) SHARKSTORE_LAMBDA {
      const int next = i < last - first ? i : last - first;
      const std::size_t code = word >> (8 * next) & 255;
      const int block = (kEntries * (first + next) * kSub + within) * kBytes;
      return book + block + code * (kSub * kBytes);
    }));
  });
}

// How the rows of a table are decoded. The first tier of each common kind is told by its tag
// alone, so that the rest costs it nothing.
template <int Dim>
class Decoder {
 public:
  explicit Decoder(const Table& table) : columns_{table.dim} {
    for (int i = table.tiers - 1; i >= 0; --i) {
      const Tier& tier = table.tier[i];
      kind_[i] = tier.kind;
      factor_[i] = tier.factor;
      if (tier.kind == Kind::kInt8) int8_ = i, int8_factor_ = Vec::all(tier.factor);
      if (tier.kind == Kind::kFloat32) float32_ = i;
      if (tier.kind == Kind::kFloat16) float16_ = i;
      if (tier.kind == Kind::kInt4) int4_ = i;
      if (tier.kind == Kind::kInt2) int2_ = i;
      if (tier.kind == Kind::kPq2) pq2_ = i;
      if (tier.kind == Kind::kPq4) pq4_ = i;
      if (tier.kind == Kind::kPq8) pq8_ = i;
      book_[i] = tier.codebook;
    }
    kind_[kDefaultTag] = Kind::kFloat32;
  }

  Columns<Dim> columns() const { return columns_; }

  // Calls use(j, values) for every vector j of a row.
  template <class Use>
  SHARKSTORE_INLINE void operator()(Address row, int tag, Use use) const {
    const std::uint8_t* p = reinterpret_cast<const std::uint8_t*>(row);
    if (tag == int8_) {
      decode_symmetric(p + 2, Vec::all_f16(p) * int8_factor_, columns_, use);
    } else if (tag == int4_) {
      low_bits<Kind::kInt4>(p, tag, use);
    } else if (tag == float32_) {
      decode_f32(p, columns_, use);
    } else if (tag == float16_) {
      decode_f16(p, columns_, use);
    } else if (tag == int2_) {
      low_bits<Kind::kInt2>(p, tag, use);
    } else if (tag == pq4_) {
      codebook<Kind::kPq4>(p, tag, use);
    } else if (tag == pq8_) {
      codebook<Kind::kPq8>(p, tag, use);
    } else if (tag == pq2_) {
      codebook<Kind::kPq2>(p, tag, use);
    } else {
      other(p, tag, use);
    }
  }

 private:
  template <class Use>
  SHARKSTORE_INLINE void other(const std::uint8_t* p, int tag, Use use) const {
    switch (kind_[tag]) {
      case Kind::kFloat32: return decode_f32(p, columns_, use);
      case Kind::kFloat16: return decode_f16(p, columns_, use);
      case Kind::kInt8:
        return decode_symmetric(p + 2, Vec::all_f16(p) * Vec::all(factor_[tag]), columns_, use);
      case Kind::kInt8Float32: return decode_symmetric(p + 4, all_f32(p), columns_, use);
      case Kind::kAffine:
        return decode_affine(p + 4, Vec::all_f16(p), Vec::all_f16(p + 2), columns_, use);
      case Kind::kAffineFloat32:
        return decode_affine(p + 8, all_f32(p), all_f32(p + 4), columns_, use);
      case Kind::kInt4: return low_bits<Kind::kInt4>(p, tag, use);
      case Kind::kInt4Float32: return low_bits<Kind::kInt4Float32>(p, tag, use);
      case Kind::kInt4Affine: return low_bits<Kind::kInt4Affine>(p, tag, use);
      case Kind::kInt4AffineFloat32: return low_bits<Kind::kInt4AffineFloat32>(p, tag, use);
      case Kind::kInt2: return low_bits<Kind::kInt2>(p, tag, use);
      case Kind::kInt2Float32: return low_bits<Kind::kInt2Float32>(p, tag, use);
      case Kind::kInt2Affine: return low_bits<Kind::kInt2Affine>(p, tag, use);
      case Kind::kInt2AffineFloat32: return low_bits<Kind::kInt2AffineFloat32>(p, tag, use);
      case Kind::kPq2: return codebook<Kind::kPq2>(p, tag, use);
      case Kind::kPq2Float32: return codebook<Kind::kPq2Float32>(p, tag, use);
      case Kind::kPq4: return codebook<Kind::kPq4>(p, tag, use);
      case Kind::kPq4Float32: return codebook<Kind::kPq4Float32>(p, tag, use);
      case Kind::kPq8: return codebook<Kind::kPq8>(p, tag, use);
      case Kind::kPq8Float32: return codebook<Kind::kPq8Float32>(p, tag, use);
    }
  }

  template <Kind K, class Use>
  SHARKSTORE_INLINE void low_bits(const std::uint8_t* p, int tag, Use use) const {
    decode_low_bits<K>(p, Vec::all(factor_[tag]), columns_, use);
  }

  template <Kind K, class Use>
  SHARKSTORE_INLINE void codebook(const std::uint8_t* p, int tag, Use use) const {
    decode_codebook<K>(p, book_[tag], columns_, use);
  }

  Columns<Dim> columns_;
  int int8_ = -1, float32_ = -1, float16_ = -1, int4_ = -1, int2_ = -1;
  int pq2_ = -1, pq4_ = -1, pq8_ = -1;
  Vec int8_factor_ = Vec::all(1.0f);
  Kind kind_[kTags] = {};
  float factor_[kTags] = {};
  const std::uint8_t* book_[kTags] = {};
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
