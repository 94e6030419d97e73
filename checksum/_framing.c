/* The short way through records of a declared framing: over everything that is intact, up to the first that isn't.
 *
 * Enters: bytes in which a record begins at `position`, and the plan of such a record. Leaves: where the last intact
 * record that lies whole in them ends, and how many there are. What is wrong there is decided in checksum/framing.py.
 */

#include "_native.h"

#include <stdlib.h>
#include <string.h>

static uint64_t loaded(const uint8_t *bytes, size_t size, int is_big) {
    uint64_t word = 0;
    for (size_t i = 0; i < size; i++)
        word = word << 8 | bytes[is_big ? i : size - 1 - i];
    return word;
}

/* One step of the shift register: reflected ones hold x^0 as their highest bit of `width`, others stand at the left. */
static inline uint64_t shifted(uint64_t state, const framing_t *plan) {
    if (plan->is_reflected)
        return (state >> 1) ^ (state & 1 ? plan->polynomial : 0);
    return (state << 1) ^ (state >> 63 ? plan->polynomial : 0);
}

static void build_slices(framing_t *plan) {
    for (uint64_t byte = 0; byte < 256; byte++) {
        uint64_t state = plan->is_reflected ? byte : byte << 56;
        for (int bit = 0; bit < 8; bit++)
            state = shifted(state, plan);
        plan->slices[0][byte] = state;
    }
    for (int k = 1; k < SLICES; k++)
        for (int byte = 0; byte < 256; byte++) {
            uint64_t state = plan->slices[k - 1][byte];
            plan->slices[k][byte] = plan->is_reflected ? (state >> 8) ^ plan->slices[0][state & 0xff]
                                                       : (state << 8) ^ plan->slices[0][state >> 56];
        }
}

/* What the eight bytes of a word do to the state, by the tables for so many bytes before the end. */
static inline uint64_t looked_up(const uint64_t (*slices)[256], uint64_t word) {
    return slices[7][word & 0xff] ^ slices[6][word >> 8 & 0xff] ^ slices[5][word >> 16 & 0xff] ^
           slices[4][word >> 24 & 0xff] ^ slices[3][word >> 32 & 0xff] ^ slices[2][word >> 40 & 0xff] ^
           slices[1][word >> 48 & 0xff] ^ slices[0][word >> 56];
}

static inline uint64_t little_endian_64(const uint8_t *bytes) {
    return little_endian_32(bytes) | (uint64_t)little_endian_32(bytes + 4) << 32;
}

static inline uint64_t past_16(const framing_t *plan, uint64_t state, const uint8_t *bytes) {
    uint64_t first = little_endian_64(bytes) ^ (plan->is_reflected ? state : __builtin_bswap64(state));
    return looked_up(plan->slices + 8, first) ^ looked_up(plan->slices, little_endian_64(bytes + 8));
}

static inline uint64_t past_1(const framing_t *plan, uint64_t state, uint8_t byte) {
    return plan->is_reflected ? (state >> 8) ^ plan->slices[0][(state ^ byte) & 0xff]
                              : (state << 8) ^ plan->slices[0][state >> 56 ^ byte];
}

/* Slicing-by-16 (after M. Kounavis and F. Berry, 2005) for any polynomial of up to 64 bits. Each step waits for the one
 * before it, so that long stretches are gone through in three lanes at once, the first two then moved past the rest. */
static uint64_t sliced(uint64_t state, const framing_t *plan, const uint8_t *bytes, size_t length) {
    for (; length >= 3 * LANE_BYTES; bytes += 3 * LANE_BYTES, length -= 3 * LANE_BYTES) {
        uint64_t second = 0, third = 0;
        for (size_t at = 0; at < LANE_BYTES; at += 16) {
            state = past_16(plan, state, bytes + at);
            second = past_16(plan, second, bytes + LANE_BYTES + at);
            third = past_16(plan, third, bytes + 2 * LANE_BYTES + at);
        }
        second ^= looked_up(plan->past_lane, state);
        state = third ^ looked_up(plan->past_lane, second);
    }
    for (; length >= 16; bytes += 16, length -= 16)
        state = past_16(plan, state, bytes);
    for (; length > 0; bytes++, length--)
        state = past_1(plan, state, *bytes);
    return state;
}

/* What LANE_BYTES zeros do to a state is linear in it, so that it is enough to know what they do to each bit. */
static void build_past_lane(framing_t *plan) {
    for (int bit = 0; bit < 64; bit++) {
        uint64_t state = 1ull << bit;
        for (int i = 0; i < LANE_BYTES; i++)
            state = past_1(plan, state, 0);
        uint64_t *table = plan->past_lane[7 - bit / 8]; /* the order in which looked_up takes them */
        for (int byte = 0; byte < 256; byte++)
            if (byte >> bit % 8 & 1)
                table[byte] ^= state;
    }
}

static int lies_within(uint64_t at, uint64_t size, uint64_t end) {
    return at <= end && size <= end - at;
}

static int is_sane(const framing_t *plan) {
    uint64_t around = plan->header_bytes + plan->trailer_bytes;
    if (plan->header_bytes > PLAN_BYTES_MAX || plan->trailer_bytes > PLAN_BYTES_MAX || plan->align_bytes < 1 ||
        plan->align_bytes > PLAN_BYTES_MAX || plan->payload_bytes_max > INT64_MAX / 2 || plan->length_bytes < 1 ||
        plan->length_bytes > 8 || !lies_within(plan->length_at, plan->length_bytes, plan->header_bytes) ||
        plan->sum_bytes < 1 || plan->sum_bytes > 8 || !lies_within(plan->sum_at, plan->sum_bytes, around) ||
        plan->rotate_right >= 8 * plan->sum_bytes)
        return 0;
    for (uint64_t i = 0; i < plan->part_count + plan->constant_count; i++) {
        uint64_t size = i < plan->part_count ? plan->pairs[i].size : 1;
        if (plan->pairs[i].at != PAYLOAD && !lies_within(plan->pairs[i].at, size, around))
            return 0;
        if (plan->pairs[i].at == PAYLOAD && i >= plan->part_count)
            return 0;
    }
    return 1;
}

framing_t *framing_of(const uint8_t *numbers, size_t count) {
    size_t fixed = (offsetof(framing_t, slices)) / sizeof(uint64_t);
    if (count < fixed || (count - fixed) % 2 != 0)
        return NULL;
    framing_t *plan = calloc(1, sizeof *plan + (count - fixed) * sizeof(uint64_t));
    if (plan == NULL)
        return NULL;
    memcpy(plan, numbers, fixed * sizeof(uint64_t));
    memcpy(plan->pairs, numbers + fixed * sizeof(uint64_t), (count - fixed) * sizeof(uint64_t));
    size_t pairs = (count - fixed) / 2;
    if (plan->part_count > pairs || plan->constant_count != pairs - plan->part_count || !is_sane(plan)) {
        free(plan);
        return NULL;
    }
    if (!plan->is_crc32c) {
        build_slices(plan);
        build_past_lane(plan);
    }
    return plan;
}

/* What should be stored as the checksum of a record. */
static uint64_t expected(kernel_t run, const framing_t *plan, const uint8_t *header, uint64_t length) {
    uint64_t state = plan->initial, width = 8 * plan->sum_bytes;
    const uint8_t *payload = header + plan->header_bytes;
    for (uint64_t i = 0; i < plan->part_count; i++) {
        const pair_t *part = &plan->pairs[i];
        const uint8_t *bytes = part->at == PAYLOAD ? payload : header + part->at;
        if (part->at != PAYLOAD && part->at >= plan->header_bytes)
            bytes += length;
        size_t size = (size_t)(part->at == PAYLOAD ? length : part->size);
        state = plan->is_crc32c ? run((uint32_t)state, bytes, size) : sliced(state, plan, bytes, size);
    }
    uint64_t word = UINT64_MAX >> (64 - width);
    uint64_t crc = (plan->is_reflected ? state : state >> (64 - width)) ^ plan->xor_out;
    if (plan->rotate_right > 0)
        crc = (crc >> plan->rotate_right | crc << (width - plan->rotate_right)) & word;
    return (crc + plan->add) & word;
}

static int holds_constants(const framing_t *plan, const uint8_t *header, uint64_t length) {
    for (const pair_t *each = plan->pairs + plan->part_count, *end = each + plan->constant_count; each < end; each++)
        if (header[each->at + (each->at >= plan->header_bytes ? length : 0)] != each->size)
            return 0;
    return 1;
}

static int is_blank(const uint8_t *bytes, uint64_t size) {
    while (size > 0 && *bytes == 0)
        bytes++, size--;
    return size == 0;
}

/* The length of the payload; more than the longest if it can't be one. */
static uint64_t payload_length(const framing_t *plan, const uint8_t *header) {
    uint64_t stored = loaded(header + plan->length_at, (size_t)plan->length_bytes, (int)plan->is_big_endian);
    uint64_t length = stored + (uint64_t)plan->uncounted_bytes;
    int is_wrapped = plan->uncounted_bytes < 0 ? stored < length : stored > length;
    return is_wrapped ? UINT64_MAX : length;
}

size_t intact_record_end(kernel_t run, const framing_t *plan, const uint8_t *buffer, size_t size, size_t position,
                         size_t *payload_bytes) {
    size_t around = (size_t)(plan->header_bytes + plan->trailer_bytes);
    if (size - position < around)
        return 0;
    const uint8_t *header = buffer + position;
    __builtin_prefetch(header + PREFETCH_BYTES);
    __builtin_prefetch(header + PREFETCH_BYTES + 64);
    uint64_t length = payload_length(plan, header);
    if (length > plan->payload_bytes_max || length > size - position - around)
        return 0;
    size_t bytes = around + (size_t)length;
    size_t padding = (size_t)(plan->align_bytes - 1 - (bytes - 1) % plan->align_bytes);
    if (padding > size - position - bytes || !holds_constants(plan, header, length))
        return 0;
    const uint8_t *sum = header + plan->sum_at + (plan->sum_at >= plan->header_bytes ? length : 0);
    uint64_t stored = loaded(sum, (size_t)plan->sum_bytes, (int)plan->is_big_endian);
    if (stored != expected(run, plan, header, length) || (stored == 0 && is_blank(header, bytes)))
        return 0;
    *payload_bytes = (size_t)length;
    return position + bytes + padding;
}

size_t walk_framed(kernel_t run, const framing_t *plan, const uint8_t *buffer, size_t size, size_t position,
                   long long counted_from, long long *records) {
    size_t payload_bytes;
    for (size_t end; (end = intact_record_end(run, plan, buffer, size, position, &payload_bytes)) != 0;) {
        position = end;
        *records += (long long)position > counted_from;
    }
    return position;
}
