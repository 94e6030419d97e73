/* The short way through a log of LevelDB or RocksDB: over everything that is intact, up to the first thing that isn't.
 *
 * Enters: whole blocks (the last may be short). Leaves: counts, and where the walk stopped. What is wrong there, and how
 * to go on, is decided in checksum/leveldb_log.py alone.
 */

#include "_native.h"

#include <string.h>

enum { FULL = 1, FIRST, MIDDLE, LAST };

size_t intact_fragment_end(kernel_t run, const uint8_t *block, size_t size, size_t position, uint8_t type_max) {
    size_t rest = size - position;
    if (rest < LOG_HEADER_BYTES)
        return 0;
    const uint8_t *header = block + position;
    uint8_t type = header[LOG_TYPE_AT];
    size_t length = log_header_bytes(type) + (header[4] | (size_t)header[5] << 8);
    if (type < FULL || type > type_max || length > rest)
        return 0;
    uint32_t crc = ~run(~0u, header + LOG_TYPE_AT, length - LOG_TYPE_AT);
    return mask(crc) == little_endian_32(header) ? position + length : 0;
}

size_t past_trailer(const uint8_t *block, size_t size, size_t end, int is_full, size_t header_bytes) {
    static const uint8_t zeros[LOG_HEADER_BYTES + LOG_NUMBER_BYTES];
    if (!is_full || size - end >= header_bytes)
        return end;
    return memcmp(block + end, zeros, size - end) == 0 ? size : end;
}

/* Whether the fragment belongs to the present log; the first recyclable one says which that is. */
static inline int is_present(const uint8_t *header, log_walk_t *walk) {
    if (header[LOG_TYPE_AT] <= LOG_TYPE_MAX)
        return 1;
    long long number = little_endian_32(header + LOG_HEADER_BYTES);
    if (walk->number < 0)
        walk->number = number;
    return walk->number == number;
}

/* Takes an intact fragment [begin, end) of the file into the walk; 0 if it doesn't fit there. */
static inline int fits(uint8_t type, long long begin, long long end, long long counted_from, log_walk_t *walk) {
    int is_open = walk->open_begin >= 0;
    if (type == FULL || type == FIRST ? is_open : !(is_open || walk->is_leading))
        return 0;
    if (type == FULL || type == LAST) {
        walk->settled = end;
        walk->open_begin = -1;
        walk->records += end > counted_from;
    } else if (!is_open)
        walk->open_begin = begin;
    walk->is_leading = 0;
    return 1;
}

void walk_log(kernel_t run, const uint8_t *buffer, size_t size, size_t block_bytes, long long offset,
              long long counted_from, log_walk_t *walk) {
    while (walk->position < size) {
        size_t block_begin = walk->position - walk->position % block_bytes;
        size_t rest = size - block_begin, block_size = rest < block_bytes ? rest : block_bytes;
        const uint8_t *block = buffer + block_begin;
        for (size_t at = walk->position - block_begin; at < block_size;) {
            __builtin_prefetch(block + at + PREFETCH_BYTES);
            __builtin_prefetch(block + at + PREFETCH_BYTES + 64);
            size_t end = intact_fragment_end(run, block, block_size, at, LOG_TYPE_MAX + LOG_RECYCLABLE);
            if (end == 0 || !is_present(block + at, walk))
                return;
            uint8_t type = block[at + LOG_TYPE_AT];
            size_t past = past_trailer(block, block_size, end, block_size == block_bytes, log_header_bytes(type));
            long long begin = offset + (long long)(block_begin + at);
            if (!fits(type > LOG_TYPE_MAX ? type - LOG_RECYCLABLE : type, begin, begin + (long long)(past - at), counted_from, walk))
                return;
            at = past;
            walk->position = block_begin + at;
        }
    }
}
