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
  Differences(const Code& code, int dim)
      : code_(code), dim_(dim), stride_(stored_bytes(code.kind, dim)) {
    room_ = kHeldValues / dim / Group::kRows * Group::kRows;
    room_ = room_ > kShortRows ? kShortRows : room_ < Group::kRows ? Group::kRows : room_;
    table_.dim = dim;
    table_.tiers = 1;
    table_.tier[0].kind = code.kind;
    table_.tier[0].factor = code.down;
    stored_.reset(new std::uint8_t[static_cast<std::size_t>(room_ * stride_ + kReadPastEnd)]());
    // whole vectors are written
    values_.reset(new float[static_cast<std::size_t>(room_ * dim + Vec::kLanes)]);
  }

  int room() const { return room_; }

  // The differences of up to room() rows, float32 (count, dim).
  const float* of(const float* rows, int count) {
    encode_rows(code_, {rows, nullptr, count, dim_}, stored_.get());
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

  const Code& code_;
  int dim_, room_;
  std::int64_t stride_;
  Table table_;
  std::unique_ptr<std::uint8_t[]> stored_;
  std::unique_ptr<float[]> values_;
};

// Errors in no metric: of codes, each rounded for itself.
inline void distort_plain(const Code& code, const Source& source, float* out) {
  Differences differences(code, source.dim);
  Transposed values(source.dim);
  for (std::int64_t first = 0; first < source.count; first += differences.room()) {
    const std::int64_t left = source.count - first;
    const int count = left < differences.room() ? static_cast<int>(left) : differences.room();
    const Source held{differences.of(source.values + first * source.dim, count), nullptr, count,
                      source.dim};
    for (int i = 0; i < count; i += Group::kRows) {
      const Group group(held, i);
      values.take(group);
      Vec total = Vec::all(0.0f);
      for (int j = 0; j < source.dim; ++j) total = total + values[j] * values[j];
      put_sizes(out + first + i, total, group.count);
    }
  }
}

// Errors in no metric, of one row for all.
inline void distort_constant(const Source& source, const float* stand_in, float* out) {
  Transposed values(source.dim);
  for (std::int64_t i = 0; i < source.count; i += Group::kRows) {
    const Group group(source, i);
    values.take(group);
    Vec total = Vec::all(0.0f);
    for (int j = 0; j < source.dim; ++j) {
      const Vec off = values[j] - Vec::all(stand_in[j]);
      total = total + off * off;
    }
    put_sizes(out + i, total, group.count);
  }
}

// Errors in a metric of what takes no heed of it: one row for all, or float16.
inline void distort_unheeding(const Factor& factor, const Source& source, const float* stand_in,
                              float* out) {
  InMetric metric(factor, source.dim);
  for (std::int64_t i = 0; i < source.count; i += kSides * Group::kRows) {
    for (int side = 0; side < kSides; ++side)
      metric.values[side].take(Group(source, i + side * Group::kRows));
    Vec total[kSides];
    metric.squared(total, [&](int side, int, int dim, Vec) SHARKSTORE_LAMBDA {
      if (stand_in) return Vec::all(stand_in[dim]);
      std::uint8_t stored[2 * Vec::kLanes];
      metric.values[side][dim].store_f16(stored);
      return Vec::load_f16(stored);
    });
    for (int side = 0; side < kSides; ++side) {
      const std::int64_t first = i + side * Group::kRows, left = source.count - first;
      put_sizes(out + first, total[side], left < Vec::kLanes ? static_cast<int>(left) : Vec::kLanes);
    }
  }
}

// out: (count,); infinity for what is not finite. `source` has no index.
inline void distort(const Code& code, const Source& source, const float* stand_in, float* out) {
  if (has_codebook(code.kind)) return encode_pq(code, source, nullptr, out);
  if (!code.factor)
    return stand_in ? distort_constant(source, stand_in, out) : distort_plain(code, source, out);
  if (!stand_in && has_scale(code.kind)) return encode_rounded(code, source, nullptr, out);
  distort_unheeding(*code.factor, source, stand_in, out);
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
