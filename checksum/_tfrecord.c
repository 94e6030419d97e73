/* The short way through TFRecords: over everything that is intact, up to the first thing that isn't.
 *
 * Enters: bytes in which a record begins at `position`. Leaves: where the last intact record that lies whole in them ends,
 * and how many there are. What is wrong there, and how to go on, is decided in checksum/tfrecord.py alone.
 */

#include "_native.h"

#define LENGTH_BYTES 8
#define HEADER_BYTES 12 /* length of the payload, its masked checksum; little-endian */
#define FOOTER_BYTES 4  /* masked checksum of the payload */

size_t walk_tfrecords(kernel_t run, const uint8_t *buffer, size_t size, size_t position, long long counted_from,
                      long long *records) {
    while (size - position >= HEADER_BYTES + FOOTER_BYTES) {
        const uint8_t *header = buffer + position;
        __builtin_prefetch(header + PREFETCH_BYTES);
        __builtin_prefetch(header + PREFETCH_BYTES + 64);
        uint64_t length = little_endian_32(header) | (uint64_t)little_endian_32(header + 4) << 32;
        if (length > size - position - HEADER_BYTES - FOOTER_BYTES ||
            mask(~run(~0u, header, LENGTH_BYTES)) != little_endian_32(header + LENGTH_BYTES))
            break;
        const uint8_t *payload = header + HEADER_BYTES, *footer = payload + length;
        if (mask(~run(~0u, payload, (size_t)length)) != little_endian_32(footer))
            break;
        position += HEADER_BYTES + (size_t)length + FOOTER_BYTES;
        *records += (long long)position > counted_from;
    }
    return position;
}
