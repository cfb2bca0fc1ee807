// Codes of 8, 4 and 2 bits rounded in a metric, and errors measured in it, bit for bit as
// kernels/rounding.py. Spec: "Rounding in a metric".
#pragma once

#include "metric.h"
#include "search.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Values whose errors are added up side by side, as registers allow.
constexpr int kTile = Vec::kLanes == 16 ? 8 : 4;

// Rows in a metric, some groups at a time.
class InMetric {
 public:
  InMetric(const Factor& factor, int dim)
      : values{Transposed(dim), Transposed(dim)},
        full_(factor.feed != nullptr),
        tiles_(full_ ? factor.feed : factor.diagonal, dim, !full_),
        order_(new int[static_cast<std::size_t>(padded())]()),
        diagonal_(new float[static_cast<std::size_t>(padded())]()),
        errors_(new Vec[static_cast<std::size_t>(padded() * kSides)]) {
    for (int j = 0; j < dim; ++j) {
      order_[j] = static_cast<int>(factor.order[j]);
      diagonal_[j] = factor.diagonal[j];
    }
  }

  // Positions: those behind the last dim stand for the first one, and count nothing.
  int padded() const { return tiles_.count() * kTile; }

  // Squared errors of the groups in `values`. serve(side, j, dim, target) gives what is served for
  // the value at position j.
  template <class Serve>
  SHARKSTORE_INLINE void squared(Vec (&total)[kSides], Serve serve) const {
    for (Vec& one : total) one = Vec::all(0.0f);
    for (int t = 0; t < tiles_.count(); ++t) {
      const float* own = tiles_[t];
      Pull<kTile> pull(own, errors_.get(), 0, full_ ? t * kTile : 0);
      SHARKSTORE_UNROLL
      for (int w = 0; w < kTile; ++w, own += kTile) {
        const int j = t * kTile + w;
        Vec error[kSides];
        SHARKSTORE_UNROLL
        for (int side = 0; side < kSides; ++side) {
          const Vec x = values[side][order_[j]], a = pull.at[side][w];
          error[side] = x - serve(side, j, order_[j], x + a);
          errors_[j * kSides + side] = error[side];
          const Vec one = (error[side] + a) * Vec::all(diagonal_[j]);
          total[side] = total[side] + one * one;
        }
        if (!full_) continue;
        SHARKSTORE_UNROLL
        for (int next = w + 1; next < kTile; ++next) {
          const Vec part = Vec::all(own[next]);
          SHARKSTORE_UNROLL
          for (int side = 0; side < kSides; ++side)
            pull.at[side][next] = pull.at[side][next] + part * error[side];
        }
      }
    }
  }

  Transposed values[kSides];

 private:
  bool full_;
  Tiles<kTile> tiles_;
  std::unique_ptr<int[]> order_;
  std::unique_ptr<float[]> diagonal_;
  std::unique_ptr<Vec[]> errors_;
};

// The scales, and biases, of a group as the plain encoder finds them.
template <Kind K>
struct Line {
  Vec scale, low;

  Line() = default;
  SHARKSTORE_INLINE Line(const Code& code, const Transposed& values) {
    if constexpr (code_bits(K) < 8) {
      const auto best = Search<K>(code, values).best();
      scale = best.scale;
      low = best.low;
    } else if constexpr (is_affine(K)) {
      take_ends(values);
    } else {
      low = Vec::all(0.0f);
      Vec size = low;
      for (int j = 0; j < values.dim(); ++j) size = Vec::abs_max(size, values[j]);
      scale = Head<K>().take(size / Vec::all(127.0f) * Vec::all(code.up));
    }
  }

 private:
  SHARKSTORE_INLINE void take_ends(const Transposed& values) {
    const Vec zero = Vec::all(0.0f);
    Vec top = values[0], bottom = zero - values[0];
    for (int j = 1; j < values.dim(); ++j) {
      top = Vec::max(top, values[j]);
      bottom = Vec::max(bottom, zero - values[j]);
    }
    low = Head<K>().take(zero - bottom + zero);
    scale = Head<K>().take(Vec::max((top - low) / Vec::all(255.0f), zero));
  }
};

// The codes of two groups, rounded to the lines of their rows.
template <Kind K>
class Rounded {
 public:
  static constexpr bool kAffine = is_affine(K);
  static constexpr float kLowest = kAffine ? 0 : code_bits(K) == 8 ? -127 : -(1 << (code_bits(K) - 1));
  static constexpr float kHighest = code_bits(K) == 8 && !kAffine ? 127 : kLowest + (1 << code_bits(K)) - 1;

  explicit Rounded(int dim, int padded)
      : dim_(dim), codes_(new Vec[static_cast<std::size_t>(padded * kSides)]) {}

  SHARKSTORE_INLINE void take(int side, const Code& code, const Line<K>& line) {
    const Vec zero = Vec::all(0.0f), most = Vec::all(0x1.fffffep127f);
    step_[side] = kAffine ? line.scale : line.scale * Vec::all(code.down);
    low_[side] = line.low;
    const Vec inverse = Vec::clip(Vec::all(1.0f) / step_[side], zero - most, most);
    // codes are 0 where the scale is
    inverse_[side] = Vec::where_less(Vec::abs_max(zero, step_[side]), Vec::all(0x1p-149f), zero, inverse);
  }

  // The value that is served for a target; its code is held.
  SHARKSTORE_INLINE Vec serve(int side, int j, int dim, Vec target) {
    const Vec quotient = (kAffine ? target - low_[side] : target) * inverse_[side];
    const Vec code =
        Vec::nearest_whole(Vec::clip(quotient, Vec::all(kLowest), Vec::all(kHighest)));
    codes_[(j < dim_ ? dim : j) * kSides + side] = code;
    const Vec value = code * step_[side];
    return kAffine ? value + low_[side] : value;
  }

  // The codes of one group, as `Search` gives its own.
  struct Side {
    const Rounded& of;
    int side;

    template <class Use>
    SHARKSTORE_INLINE void codes(Use use) const {
      const Vec zero = Vec::all(0.0f);
      for (int j = 0; j < of.dim_; ++j) {
        const Vec code = of.codes_[j * kSides + side];
        if constexpr (code_bits(K) < 8) use(j, code - Vec::all(kLowest));
        else if constexpr (kAffine) use(j, code);
        else use(j, Vec::where_less(code, zero, code + Vec::all(256.0f), code));
      }
    }
  };

 private:
  int dim_;
  Vec step_[kSides], low_[kSides], inverse_[kSides];
  std::unique_ptr<Vec[]> codes_;
};

template <Kind K>
SHARKSTORE_INLINE void put_line(const Line<K>& line, int rows, std::uint8_t* out,
                                std::int64_t stride) {
  Head<K> scales, biases;
  scales.take(line.scale);
  biases.take(line.low);
  for (int r = 0; r < rows; ++r) {
    std::uint8_t* row = scales.put(out + r * stride, r);
    if (is_affine(K)) biases.put(row, r);
  }
}

// Writes stored rows to `out` and squared errors to `sizes`, where they are not null.
template <Kind K>
void round_rows(const Code& code, const Source& source, std::uint8_t* out, float* sizes) {
  constexpr int kRows = Group::kRows;
  const std::int64_t stride = stored_bytes(K, source.dim);
  InMetric metric(*code.factor, source.dim);
  Rounded<K> rounded(source.dim, metric.padded());
  const std::unique_ptr<Vec::Int[]> words(new Vec::Int[static_cast<std::size_t>(stride)]);
  for (std::int64_t i = 0; i < source.count; i += kSides * kRows) {
    Line<K> line[kSides];
    for (int side = 0; side < kSides; ++side) {
      metric.values[side].take(Group(source, i + side * kRows));
      line[side] = Line<K>(code, metric.values[side]);
      rounded.take(side, code, line[side]);
    }
    Vec total[kSides];
    metric.squared(total, [&](int side, int j, int dim, Vec target) SHARKSTORE_LAMBDA {
      return rounded.serve(side, j, dim, target);
    });
    for (int side = 0; side < kSides; ++side) {
      const std::int64_t first = i + side * kRows, left = source.count - first;
      const int rows = left < kRows ? static_cast<int>(left) : kRows;
      if (sizes) put_sizes(sizes + first, total[side], rows);
      if (!out || rows <= 0) continue;
      std::uint8_t* to = out + first * stride;
      put_line(line[side], rows, to, stride);
      put_codes<K>(typename Rounded<K>::Side{rounded, side}, source.dim, rows, words.get(),
                      to + head_bytes(K), stride);
    }
  }
}

inline void encode_rounded(const Code& code, const Source& source, std::uint8_t* out,
                           float* sizes) {
  switch (code.kind) {
    case Kind::kInt8: return round_rows<Kind::kInt8>(code, source, out, sizes);
    case Kind::kInt8Float32: return round_rows<Kind::kInt8Float32>(code, source, out, sizes);
    case Kind::kAffine: return round_rows<Kind::kAffine>(code, source, out, sizes);
    case Kind::kAffineFloat32: return round_rows<Kind::kAffineFloat32>(code, source, out, sizes);
    case Kind::kInt4: return round_rows<Kind::kInt4>(code, source, out, sizes);
    case Kind::kInt4Float32: return round_rows<Kind::kInt4Float32>(code, source, out, sizes);
    case Kind::kInt4Affine: return round_rows<Kind::kInt4Affine>(code, source, out, sizes);
    case Kind::kInt4AffineFloat32:
      return round_rows<Kind::kInt4AffineFloat32>(code, source, out, sizes);
    case Kind::kInt2: return round_rows<Kind::kInt2>(code, source, out, sizes);
    case Kind::kInt2Float32: return round_rows<Kind::kInt2Float32>(code, source, out, sizes);
    case Kind::kInt2Affine: return round_rows<Kind::kInt2Affine>(code, source, out, sizes);
    default: return round_rows<Kind::kInt2AffineFloat32>(code, source, out, sizes);
  }
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
