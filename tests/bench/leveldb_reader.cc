// LevelDB's own log reader over bytes in memory, for the benchmark beside ours.
//
// Its class isn't in the public headers, but in the static library: what is declared here is what a caller must know,
// with more room for its members than they take. Debian builds LevelDB without google/crc32c, so that it computes in
// portable C; with -DHARDWARE_CRC our SSE4.2 kernel takes the place of its crc32c::Extend.

#include <cstdint>
#include <string>

#include "leveldb/env.h"

#ifdef HARDWARE_CRC
extern "C" {
#include "_native.h"
}

namespace leveldb::crc32c {
uint32_t Extend(uint32_t crc, const char* data, size_t size) {
  static const kernel_t run = [] {
    build_kernels();
    return kernels[kernel_count > 1 ? kernel_count - 2 : 0].run;  // the list ends with sse4.2, table
  }();
  return ~run(~crc, reinterpret_cast<const uint8_t*>(data), size);
}
}  // namespace leveldb::crc32c
#endif

namespace leveldb::log {
class Reader {
 public:
  class Reporter {
   public:
    virtual ~Reporter();
    virtual void Corruption(size_t bytes, const Status& status) = 0;
  };
  Reader(SequentialFile* file, Reporter* reporter, bool checksum, uint64_t initial_offset);
  ~Reader();
  bool ReadRecord(Slice* record, std::string* scratch);

 private:
  char members_[1024];
};
}  // namespace leveldb::log

namespace {
class Memory : public leveldb::SequentialFile {
 public:
  Memory(const char* data, size_t size) : data_(data), size_(size) {}
  leveldb::Status Read(size_t n, leveldb::Slice* result, char*) override {
    if (n > size_) n = size_;
    *result = leveldb::Slice(data_, n);
    data_ += n;
    size_ -= n;
    return leveldb::Status::OK();
  }
  leveldb::Status Skip(uint64_t) override { return leveldb::Status::OK(); }

 private:
  const char* data_;
  size_t size_;
};
}  // namespace

extern "C" uint64_t read_log(const char* data, size_t size) {
  Memory file(data, size);
  leveldb::log::Reader reader(&file, nullptr, true, 0);
  leveldb::Slice record;
  std::string scratch;
  uint64_t records = 0;
  while (reader.ReadRecord(&record, &scratch)) records++;
  return records;
}
