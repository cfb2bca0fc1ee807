// Runs the cases that cases.py writes on every kernel of this machine: `driver FILE`.
//
// Arrays end right before a page that may not be touched, rows and row maps 64 bytes before it.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "dispatch.h"

namespace {

using namespace sharkstore;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

// Memory that ends `room` bytes before a forbidden page.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes, std::size_t room = 0) : bytes_(bytes) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t inner = (bytes + room + page - 1) / page * page;
    mapped_ = inner + page;
    base_ = static_cast<std::uint8_t*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + inner, page, PROT_NONE) != 0) fail("no memory");
    data_ = base_ + inner - room - bytes;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }

  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  T* as_or_null() const {
    return bytes_ ? as<T>() : nullptr;
  }

 private:
  std::uint8_t* base_;
  std::uint8_t* data_;
  std::size_t bytes_, mapped_;
};

using Blob = std::unique_ptr<Guarded>;

class Reader {
 public:
  explicit Reader(const char* path) : file_(path, std::ios::binary) {
    if (!file_) fail(std::string("can't read ") + path);
  }
  bool more() { return file_.peek() != std::ifstream::traits_type::eof(); }
  std::int64_t number() {
    std::int64_t value;
    read(&value, 8);
    return value;
  }
  Blob blob(std::size_t room = 0) {
    auto held = std::make_unique<Guarded>(static_cast<std::size_t>(number()), room);
    read(held->as<char>(), held->bytes());
    return held;
  }
  std::string text() {
    std::string value(static_cast<std::size_t>(number()), ' ');
    read(value.data(), value.size());
    return value;
  }

 private:
  void read(void* to, std::size_t bytes) {
    file_.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
    if (!file_) fail("the file of cases ends too soon");
  }
  std::ifstream file_;
};

// A table, and the memory that it lies in.
struct Held {
  Table table;
  std::vector<Blob> memory;

  const std::uint8_t* keep(Blob blob) {
    memory.push_back(std::move(blob));
    return memory.back()->as<std::uint8_t>();
  }
};

Held read_table(Reader& from) {
  Held held;
  Table& table = held.table;
  table.rows = static_cast<std::uint64_t>(from.number());
  table.dim = static_cast<int>(from.number());
  table.bytes = static_cast<std::uint64_t>(from.number());
  table.tiers = static_cast<int>(from.number());
  while (table.rows && (1 << table.planes) < table.tiers) ++table.planes;
  for (int i = 0; i < table.tiers; ++i) {
    Tier& tier = table.tier[i];
    tier.kind = static_cast<Kind>(from.number());
    tier.rows = static_cast<std::uint64_t>(from.number());
    tier.factor = std::ldexp(1.0f, static_cast<int>(from.number()));
    const std::int64_t stored = from.number();
    tier.row_bytes = static_cast<std::uint32_t>(stored_bytes(tier.kind, table.dim));
    tier.stride = stored == 1 ? 0 : tier.row_bytes;
    tier.data = held.keep(from.blob(kReadPastEnd));
    tier.codebook = held.keep(from.blob());
  }
  table.rowmap = held.keep(from.blob(kReadPastEnd));
  // a row of another tier's room: whole vectors of it are read
  table.default_row = reinterpret_cast<const float*>(held.keep(from.blob(kReadPastEnd)));
  return held;
}

bool same(const float* got, const float* expected, std::size_t count, std::string& where) {
  for (std::size_t i = 0; i < count; ++i) {
    if (std::memcmp(got + i, expected + i, 4) == 0) continue;
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
    char text[120];
    std::snprintf(text, sizeof text, "value %zu is %a, expected %a", i, static_cast<double>(got[i]),
                  static_cast<double>(expected[i]));
    where = text;
    return false;
  }
  return true;
}

void run_lookup(Reader& from, const Held& held, const std::string& what) {
  const bool wide = from.number() == 8;
  Outcome expected;
  expected.outside = from.number();
  expected.first_outside = from.number();
  expected.bad_row = from.number();
  expected.bad_tier = static_cast<int>(from.number());
  const Blob ids = from.blob(), rows = from.blob();
  const Ids given{ids->as<void>(), static_cast<std::int64_t>(ids->bytes() / (wide ? 8 : 4)), wide};
  const std::size_t bytes = static_cast<std::size_t>(given.count * held.table.dim * 4);
  for (const Backend* one : usable_backends()) {
    const Guarded out(bytes);
    Outcome found;
    one->lookup(held.table, given, out.as<float>(), found);
    std::string where;
    if (found.outside != expected.outside || found.first_outside != expected.first_outside ||
        found.bad_row != expected.bad_row || found.bad_tier != expected.bad_tier)
      fail(what + " " + one->name + ": another outcome");
    if (rows->bytes() && !same(out.as<float>(), rows->as<float>(), bytes / 4, where))
      fail(what + " " + one->name + ": " + where);
  }
}

void run_bags(Reader& from, const Held& held, const std::string& what) {
  const bool wide = from.number() == 8;
  Bags bags{};
  bags.pool = static_cast<Pool>(from.number());
  bags.padding = from.number();
  bags.count = from.number();
  bags.each = from.number();
  const Blob ids = from.blob(), offsets = from.blob(), weights = from.blob(), rows = from.blob();
  if (bags.each < 0) bags.offsets = offsets->as<std::int64_t>();
  bags.weights = weights->as_or_null<float>();
  const Ids given{ids->as<void>(), static_cast<std::int64_t>(ids->bytes() / (wide ? 8 : 4)), wide};
  for (const Backend* one : usable_backends()) {
    const Guarded out(rows->bytes());
    Outcome found;
    one->pool(held.table, given, bags, out.as<float>(), found);
    std::string where;
    if (found.bad_offsets || !same(out.as<float>(), rows->as<float>(), rows->bytes() / 4, where))
      fail(what + " " + one->name + ": " + where);
  }
}

// Tables together: their bags, then their rows, each in parts that begin anywhere.
void run_request(Reader& from, const std::string& what) {
  std::vector<std::unique_ptr<Held>> tables;
  std::vector<Feature> features, unpadded;
  const std::int64_t count = from.number();
  Request request{};
  for (std::int64_t i = 0; i < count; ++i) {
    tables.push_back(std::make_unique<Held>(read_table(from)));
    const Table& table = tables.back()->table;
    const Pool pool = static_cast<Pool>(from.number());
    features.emplace_back(table, pool, from.number());
    unpadded.emplace_back(table, pool, -1);
    features.back().column = request.width;
    request.width += table.dim;
  }
  const bool wide = from.number() == 8;
  request.count = static_cast<int>(count);
  request.wide = true;
  request.batch = from.number();
  request.stream = from.number() != 0;
  const Blob ids = from.blob(), offsets = from.blob(), weights = from.blob();
  const Blob starts = from.blob(), bags = from.blob(), rows = from.blob();
  request.ids = {ids->as<void>(), static_cast<std::int64_t>(ids->bytes() / (wide ? 8 : 4)), wide};
  Request plain = request;
  request.features = features.data();
  request.offsets = offsets->as<void>();
  request.weights = weights->as_or_null<float>();
  plain.features = unpadded.data();
  plain.offsets = starts->as<void>();
  plain.batch = 1;
  for (const Backend* one : usable_backends()) {
    const auto check = [&](Request asked, const Blob& expected, std::int64_t items, auto kernel) {
      const Guarded out(expected->bytes());
      asked.out = out.as<float>();
      Findings found;
      for (std::int64_t part = 0; part < 3; ++part)
        kernel(asked, items * part / 3, items * (part + 1) / 3, found);
      std::free(found.outside);
      std::string where;
      if (found.outcome.bad_row >= 0 || found.outcome.bad_offsets ||
          !same(out.as<float>(), expected->as<float>(), expected->bytes() / 4, where))
        fail(what + " " + one->name + ": " + where);
    };
    check(request, bags, count * request.batch, one->pool_many);
    check(plain, rows, plain.ids.count, one->lookup_many);
  }
}

void run_encode(Reader& from, const std::string& what) {
  Code code{};
  code.kind = static_cast<Kind>(from.number());
  const int exponent = static_cast<int>(from.number());
  code.up = std::ldexp(1.0f, exponent);
  code.down = std::ldexp(1.0f, -exponent);
  const std::int64_t count = from.number();
  const int dim = static_cast<int>(from.number());
  const Blob values = from.blob(), expected = from.blob();
  for (const Backend* one : usable_backends()) {
    const Guarded out(expected->bytes());
    one->encode(code, {values->as<float>(), nullptr, count, dim}, out.as<std::uint8_t>());
    if (std::memcmp(out.as<char>(), expected->as<char>(), expected->bytes()) != 0)
      fail(what + " " + one->name + ": other bytes");
  }
}

void run_encode_tier(Reader& from, const std::string& what) {
  Code code{};
  code.kind = static_cast<Kind>(from.number());
  const int exponent = static_cast<int>(from.number());
  code.up = std::ldexp(1.0f, exponent);
  code.down = std::ldexp(1.0f, -exponent);
  Block block{};
  block.count = from.number();
  block.dim = static_cast<int>(from.number());
  block.planes = static_cast<int>(from.number());
  const int tier = static_cast<int>(from.number());
  const std::int64_t skip = from.number(), wanted = from.number(), count = from.number();
  const Blob values = from.blob(), rowmap = from.blob(), expected = from.blob();
  block.values = values->as<float>();
  block.rowmap = rowmap->as<std::uint8_t>();
  for (const Backend* one : usable_backends()) {
    const Guarded out(expected->bytes());
    if (one->encode_tier(code, block, tier, skip, wanted, out.as<std::uint8_t>()) != count ||
        std::memcmp(out.as<char>(), expected->as<char>(), expected->bytes()) != 0)
      fail(what + " " + one->name + ": other rows");
  }
}

void run_measure(Reader& from, const std::string& what) {
  Block block{};
  block.count = from.number();
  block.dim = static_cast<int>(from.number());
  block.planes = static_cast<int>(from.number());
  const std::uint32_t ranged = static_cast<std::uint32_t>(from.number());
  const bool finite = from.number() != 0;
  const Blob values = from.blob(), rowmap = from.blob(), largest = from.blob(), rows = from.blob();
  block.values = values->as<float>();
  block.rowmap = rowmap->as<std::uint8_t>();
  for (const Backend* one : usable_backends()) {
    Measures found;
    if (one->measure(block, ranged, found) != finite)
      fail(what + " " + one->name + (finite ? ": not finite" : ": finite"));
    if (finite && (std::memcmp(found.largest, largest->as<char>(), sizeof found.largest) != 0 ||
                   std::memcmp(found.rows, rows->as<char>(), sizeof found.rows) != 0))
      fail(what + " " + one->name + ": other sizes");
  }
}

void run_distort(Reader& from, const std::string& what) {
  Code code{};
  code.kind = static_cast<Kind>(from.number());
  const int exponent = static_cast<int>(from.number());
  code.up = std::ldexp(1.0f, exponent);
  code.down = std::ldexp(1.0f, -exponent);
  const std::int64_t count = from.number();
  const int dim = static_cast<int>(from.number());
  Book book{};
  book.entries = static_cast<int>(from.number());
  book.diagonal = from.number() == 1;
  const Blob rows = from.blob(), terms = from.blob(), center = from.blob();
  const Blob values = from.blob(), places = from.blob(), root = from.blob(), order = from.blob();
  const Blob feed = from.blob(), diagonal = from.blob(), stand_in = from.blob();
  const Blob stored = from.blob(), expected = from.blob();
  book.terms = terms->as<float>();
  book.center = center->as<float>();
  book.values = values->as<float>();
  book.order = places->as<std::int64_t>();
  book.root = root->as_or_null<float>();
  const Factor factor{order->as<std::int64_t>(), feed->as_or_null<float>(),
                      diagonal->as<float>()};
  if (has_codebook(code.kind)) code.book = &book;
  else if (order->bytes()) code.factor = &factor;
  const Source source{rows->as<float>(), nullptr, count, dim};
  for (const Backend* one : usable_backends()) {
    const Guarded codes(stored->bytes()), out(expected->bytes());
    if (stored->bytes()) one->encode(code, source, codes.as<std::uint8_t>());
    if (std::memcmp(codes.as<char>(), stored->as<char>(), stored->bytes()) != 0)
      fail(what + " " + one->name + ": other bytes");
    one->distort(code, source, stand_in->as_or_null<float>(), out.as<float>());
    if (std::memcmp(out.as<char>(), expected->as<char>(), expected->bytes()) != 0)
      fail(what + " " + one->name + ": other distances");
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) fail("driver FILE");
  Reader from(arguments[1]);
  std::unique_ptr<Held> held;
  std::string table;
  int cases = 0;
  for (; from.more(); ++cases) {
    const char kind = static_cast<char>(from.number());
    const std::string name = from.text();
    const std::string what = table + ": " + name;
    if (kind == 'T') {
      table = name;
      held = std::make_unique<Held>(read_table(from));
    } else if (kind == 'L' && held) {
      run_lookup(from, *held, what);
    } else if (kind == 'B' && held) {
      run_bags(from, *held, what);
    } else if (kind == 'R') {
      run_request(from, name);
    } else if (kind == 'E') {
      run_encode(from, name);
    } else if (kind == 'P') {
      run_encode_tier(from, name);
    } else if (kind == 'M') {
      run_measure(from, name);
    } else if (kind == 'D') {
      run_distort(from, name);
    } else {
      fail(std::string("a case of unknown kind ") + kind);
    }
  }
  std::string names;
  for (const Backend* one : usable_backends()) names += std::string(" ") + one->name;
  std::printf("%d cases equal:%s\n", cases, names.c_str());
}
