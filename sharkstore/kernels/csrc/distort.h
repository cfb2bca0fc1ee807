// How far rows are from what would be served, bit for bit as kernels/distortion.py.
#pragma once

#include "decode.h"
#include "encode.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Rows that are encoded, then decoded, at once: some of any length, many of short rows.
constexpr int kShortRows = 256;
constexpr int kHeldValues = 1 << 14;

// Differences of some rows from what would be served for them.
class Differences {
 public:
  Differences(const Code& code, const Gauge& gauge, int dim)
      : code_(code), gauge_(gauge), dim_(dim), stride_(stored_bytes(code.kind, dim)) {
    room_ = kHeldValues / dim / Group::kRows * Group::kRows;
    room_ = room_ > kShortRows ? kShortRows : room_ < Group::kRows ? Group::kRows : room_;
    table_.dim = dim;
    table_.tiers = 1;
    table_.tier[0].kind = code.kind;
    table_.tier[0].factor = code.down;
    stored_.reset(new std::uint8_t[static_cast<std::size_t>(room_ * stride_ + kReadPastEnd)]());
    // whole vectors are written
    values_.reset(new float[static_cast<std::size_t>(room_ * dim + Vec::kLanes)]);
    served_.reset(new float[static_cast<std::size_t>(dim + 2 * Vec::kLanes)]());
  }

  int room() const { return room_; }

  // The differences of up to room() rows, float32 (count, dim).
  const float* of(const float* rows, int count) {
    if (gauge_.stand_in) {
      for (int r = 0; r < count; ++r) subtract(rows + r * dim_, gauge_.stand_in, r);
      return values_.get();
    }
    encode_rows(code_, {rows, nullptr, count, dim_}, stored_.get());
    if (has_codebook(code_.kind)) {
      for (int r = 0; r < count; ++r) subtract(rows + r * dim_, entries(r), r);
      return values_.get();
    }
    const Decoder<0> decode(table_);
    for (int r = 0; r < count; ++r) {
      const float* row = rows + r * dim_;
      decode(reinterpret_cast<Address>(stored_.get() + r * stride_), 0,
             [&](int j, Vec served) SHARKSTORE_LAMBDA {
               (part(row, j) - served).store(values_.get() + r * dim_ + j * Vec::kLanes);
             });
    }
    return values_.get();
  }

 private:
  // Vector j of a row, filled up behind its end.
  SHARKSTORE_INLINE Vec part(const float* row, int j) const {
    const int left = dim_ - j * Vec::kLanes;
    row += j * Vec::kLanes;
    if (left >= Vec::kLanes) return Vec::load_f32(reinterpret_cast<const std::uint8_t*>(row));
    return Vec::load_part(row, left, Vec::all(0.0f));
  }

  SHARKSTORE_INLINE void subtract(const float* row, const float* served, int r) {
    float* to = values_.get() + r * dim_;
    for (int j = 0; j * Vec::kLanes < dim_; ++j)
      (part(row, j) - part(served, j)).store(to + j * Vec::kLanes);
  }

  // The entries that row r's codes name, one behind the other.
  SHARKSTORE_INLINE const float* entries(int r) {
    const int sub = sub_values(code_.kind);
    const float* block = code_.book->values;
    const std::uint8_t* codes = stored_.get() + r * stride_;
    for (int b = 0; b < stride_; ++b, block += code_.book->entries * sub) {
      const float* from = block + codes[b] * sub;
      float* to = served_.get() + b * sub;
      for (int d = 0; d < sub; d += 2) std::memcpy(to + d, from + d, 8);
    }
    return served_.get();
  }

  const Code& code_;
  const Gauge& gauge_;
  int dim_, room_;
  std::int64_t stride_;
  Table table_;
  std::unique_ptr<std::uint8_t[]> stored_;
  std::unique_ptr<float[]> values_, served_;
};

// The sum of squares of `Wide` columns of the root times the differences, added to `total`.
template <int Wide>
SHARKSTORE_INLINE Vec add_columns(Vec total, const float* root, const Transposed& values, int i) {
  const int dim = values.dim();
  Vec sum[Wide];
  SHARKSTORE_UNROLL
  for (int w = 0; w < Wide; ++w) sum[w] = Vec::all(0.0f);
  const float* line = root + static_cast<std::int64_t>(i) * dim + i;
  SHARKSTORE_UNROLL
  for (int j = 0; j < Wide; ++j, line += dim) {
    SHARKSTORE_UNROLL
    for (int w = 0; w <= j; ++w) sum[w] = sum[w] + Vec::all(line[w]) * values[i + j];
  }
  for (int j = i + Wide; j < dim; ++j, line += dim) {
    const Vec value = values[j];
    SHARKSTORE_UNROLL
    for (int w = 0; w < Wide; ++w) sum[w] = sum[w] + Vec::all(line[w]) * value;
  }
  SHARKSTORE_UNROLL
  for (int w = 0; w < Wide; ++w) total = total + sum[w] * sum[w];
  return total;
}

SHARKSTORE_INLINE Vec squared_size(const Gauge& gauge, const Transposed& values) {
  constexpr int kWide = 8;
  Vec total = Vec::all(0.0f);
  int i = 0;
  if (gauge.root && !gauge.diagonal) {
    for (; i + kWide <= values.dim(); i += kWide)
      total = add_columns<kWide>(total, gauge.root, values, i);
    for (; i < values.dim(); ++i) total = add_columns<1>(total, gauge.root, values, i);
    return total;
  }
  for (; i < values.dim(); ++i) {
    const Vec one = gauge.root ? Vec::all(gauge.root[i]) * values[i] : values[i];
    total = total + one * one;
  }
  return total;
}

// out: (count,); infinity for what is not finite. `source` has no index.
inline void distort(const Code& code, const Source& source, const Gauge& gauge, float* out) {
  const Vec infinite = Vec::all(__builtin_inff());
  Differences differences(code, gauge, source.dim);
  Transposed values(source.dim);
  for (std::int64_t first = 0; first < source.count; first += differences.room()) {
    const std::int64_t left = source.count - first;
    const int count = left < differences.room() ? static_cast<int>(left) : differences.room();
    const Source held{differences.of(source.values + first * source.dim, count), nullptr, count,
                      source.dim};
    for (int i = 0; i < count; i += Group::kRows) {
      const Group group(held, i);
      values.take(group);
      const Vec total = squared_size(gauge, values);
      Vec::where_less(total, infinite, total, infinite).store_part(out + first + i, group.count);
    }
  }
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
