/* What the C files of this folder share: CRC-32C kernels, the place of a flipped bit, and the walks through formats. */

#ifndef CHECKSUM_NATIVE_H
#define CHECKSUM_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* Bits are reflected: the coefficient of x^0 is the most significant bit of a word, so multiplying by x shifts right. */
#define CRC32C_POLYNOMIAL 0x82f63b78u
#define ZLIB_CRC32_POLYNOMIAL 0xedb88320u
#define X_TO_THE_0 0x80000000u

/* How far ahead memory is asked for. The processor's own guess falls behind where records are short or checksums fast:
 * without this, logs of 100-byte records are read from memory at half the speed. */
#define PREFETCH_BYTES 2048

static inline uint32_t times_x(uint32_t word, uint32_t polynomial) {
    return (word >> 1) ^ (word & 1 ? polynomial : 0);
}

static inline uint32_t little_endian_32(const uint8_t *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* --- _kernels.c --- */

/* Takes and returns the inverted checksum, which is the state of the shift register. */
typedef uint32_t (*kernel_t)(uint32_t state, const uint8_t *bytes, size_t length);

typedef struct {
    const char *name;
    kernel_t run;
} named_kernel_t;

#define KERNELS_MAX 3
extern named_kernel_t kernels[KERNELS_MAX]; /* those this processor has, the fastest first */
extern size_t kernel_count;

void build_kernels(void);

/* The form in which LevelDB and TFRecord store a checksum. */
static inline uint32_t mask(uint32_t crc) {
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* --- _locate.c --- */

/* The d below bits_max with x^d = syndrome modulo one of the two polynomials above, -1 if there is none, -2 if memory ran out. */
long long locate_exponent(uint32_t syndrome, long long bits_max, uint32_t polynomial);

/* --- _leveldb.c --- */

#define LOG_HEADER_BYTES 7 /* masked checksum (4), length (2), type (1); checksum/leveldb_log.py explains */
#define LOG_TYPE_AT 6
#define LOG_TYPE_MAX 4   /* of LevelDB */
#define LOG_RECYCLABLE 4 /* added to the type by RocksDB, where the number of the log follows */
#define LOG_NUMBER_BYTES 4

static inline size_t log_header_bytes(uint8_t type) {
    return LOG_HEADER_BYTES + (type > LOG_TYPE_MAX ? LOG_NUMBER_BYTES : 0);
}

/* The end of the intact fragment of a type up to `type_max` at `position` of a block of `size` bytes, or 0. */
size_t intact_fragment_end(kernel_t run, const uint8_t *block, size_t size, size_t position, uint8_t type_max);

/* `end`, or the end of a full block if only zeros follow that are too few for one more header. */
size_t past_trailer(const uint8_t *block, size_t size, size_t end, int is_full, size_t header_bytes);

/* Where a walk through a log stands. Positions lie in the buffer, everything else in the file. */
typedef struct {
    size_t position;      /* everything before it is intact */
    long long settled;    /* the end of the last record that was completed; -1 if none was */
    long long records;    /* how many were completed that end after `counted_from` */
    long long open_begin; /* where the record begins whose last fragment is still to come; -1: there is none */
    int is_leading;       /* so far nothing but the rest of a record that began before the walk */
    long long number;     /* of RocksDB's log, as its first recyclable fragment said; -1: there was none yet */
} log_walk_t;

/* Walks over intact records until something isn't, or the buffer ends. The buffer begins at a block of the file. */
void walk_log(kernel_t run, const uint8_t *buffer, size_t size, size_t block_bytes, long long offset,
              long long counted_from, log_walk_t *walk);

/* --- _tfrecord.c --- */

/* Where the last intact record from `position` on ends; adds to `records` how many end after `counted_from`. */
size_t walk_tfrecords(kernel_t run, const uint8_t *buffer, size_t size, size_t position, long long counted_from,
                      long long *records);

/* --- _framing.c --- */

#define PLAN_BYTES_MAX (1u << 20) /* of header, trailer and padding each */
#define SLICES 16
#define LANE_BYTES 256
#define PAYLOAD UINT64_MAX        /* stands for the payload, where else an offset in header and trailer does */

typedef struct {
    uint64_t at, size; /* of a part that the checksum covers; or where a constant byte stands, and that byte */
} pair_t;

/* A declared framing. The numbers up to `slices` come from checksum/framing.py in this order, then the pairs. */
typedef struct {
    uint64_t header_bytes, trailer_bytes, align_bytes;
    uint64_t length_at, length_bytes;
    int64_t uncounted_bytes; /* stored length + these = length of the payload */
    uint64_t payload_bytes_max;
    uint64_t sum_at, sum_bytes; /* offsets are those in header and trailer without a payload between them */
    uint64_t is_big_endian, is_crc32c, is_reflected;
    uint64_t polynomial, initial, xor_out; /* the first two as the register holds them: reflected, or at the left */
    uint64_t rotate_right, add;            /* the mask */
    uint64_t part_count, constant_count;
    uint64_t slices[SLICES][256]; /* [k]: what a byte does that k others follow */
    uint64_t past_lane[8][256]; /* what LANE_BYTES zeros do to a state, by its bytes, the lowest last */
    pair_t pairs[]; /* the parts, then the constants */
} framing_t;

/* A new plan, to be freed; NULL if the numbers make no sense or memory ran out. */
framing_t *framing_of(const uint8_t *numbers, size_t count);

/* The end of the intact record at `position` that lies whole in the buffer, and the length of its payload; else 0. */
size_t intact_record_end(kernel_t run, const framing_t *plan, const uint8_t *buffer, size_t size, size_t position,
                         size_t *payload_bytes);

/* Where the last intact record from `position` on ends; adds to `records` how many end after `counted_from`. */
size_t walk_framed(kernel_t run, const framing_t *plan, const uint8_t *buffer, size_t size, size_t position,
                   long long counted_from, long long *records);

#endif
