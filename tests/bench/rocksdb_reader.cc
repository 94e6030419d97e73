// RocksDB's own log reader over bytes in memory, for the benchmark beside ours.
//
// The library exports its class, but no public header has it (nor the file reader it takes): what is declared here is
// what a caller must know, after 7.8.3, with more room for its members than they take. Another version is refused.

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "rocksdb/file_system.h"
#include "rocksdb/options.h"
#include "rocksdb/version.h"

static_assert(ROCKSDB_MAJOR == 7 && ROCKSDB_MINOR == 8, "the declarations below are those of 7.8");

namespace rocksdb {
class SequentialFileReader {
 public:
  static IOStatus Create(const std::shared_ptr<FileSystem>& fs, const std::string& name, const FileOptions& options,
                         std::unique_ptr<SequentialFileReader>* reader, IODebugContext* debug, RateLimiter* limiter);
  SequentialFileReader() = delete;
  ~SequentialFileReader() = delete;  // the log reader destroys it
};

namespace log {
class Reader {
 public:
  class Reporter;
  Reader(std::shared_ptr<Logger> log, std::unique_ptr<SequentialFileReader>&& file, Reporter* reporter, bool checksum,
         uint64_t log_number);
  virtual ~Reader();
  virtual bool ReadRecord(Slice* record, std::string* scratch, WALRecoveryMode mode, uint64_t* record_checksum);

 private:
  char members_[4096];
};
}  // namespace log
}  // namespace rocksdb

namespace {
class Memory : public rocksdb::FSSequentialFile {
 public:
  Memory(const char* data, size_t size) : data_(data), size_(size) {}
  rocksdb::IOStatus Read(size_t n, const rocksdb::IOOptions&, rocksdb::Slice* result, char* scratch,
                         rocksdb::IODebugContext*) override {
    if (n > size_) n = size_;
    std::memcpy(scratch, data_, n);  // the file reader looks nowhere else
    *result = rocksdb::Slice(scratch, n);
    data_ += n;
    size_ -= n;
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus Skip(uint64_t) override { return rocksdb::IOStatus::OK(); }

 private:
  const char* data_;
  size_t size_;
};

class OneFile : public rocksdb::FileSystemWrapper {
 public:
  OneFile(const char* data, size_t size)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), data_(data), size_(size) {}
  const char* Name() const override { return "OneFile"; }
  rocksdb::IOStatus NewSequentialFile(const std::string&, const rocksdb::FileOptions&,
                                      std::unique_ptr<rocksdb::FSSequentialFile>* file,
                                      rocksdb::IODebugContext*) override {
    file->reset(new Memory(data_, size_));
    return rocksdb::IOStatus::OK();
  }

 private:
  const char* data_;
  size_t size_;
};
}  // namespace

extern "C" uint64_t read_log(const char* data, size_t size) {
  auto* file = new std::unique_ptr<rocksdb::SequentialFileReader>;  // its destructor can't be had; a pointer leaks
  if (!rocksdb::SequentialFileReader::Create(std::make_shared<OneFile>(data, size), "log", rocksdb::FileOptions(), file,
                                             nullptr, nullptr)
           .ok())
    return 0;
  rocksdb::log::Reader reader(nullptr, std::move(*file), nullptr, true, 0);
  rocksdb::Slice record;
  std::string scratch;
  uint64_t records = 0;
  while (reader.ReadRecord(&record, &scratch, rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords, nullptr))
    records++;
  return records;
}
