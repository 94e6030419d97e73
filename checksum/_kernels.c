/* CRC-32C (Castagnoli, RFC 3720 appendix B.4): kernels that give the same answer at different speed.
 *
 * Enters: bytes. Leaves: the state of the shift register behind them.
 *   "avx512"  folds four times 64 bytes at once by carry-less multiplication (VPCLMULQDQ).
 *   "sse4.2"  uses the processor's crc32 instruction on three streams 128 bytes apart: its latency is three cycles, so
 *             that one stream would leave two thirds of it idle; streams further apart lose memory bandwidth.
 *   "armv8"   does the same with the crc32c instructions of 64-bit ARM.
 *   "table"   is slicing-by-8, for every other processor.
 * checksum/crc32c.py holds the Python twin, tests each kernel at import and chooses among those that compute rightly.
 */

#include "_native.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86_KERNELS 1
#include <immintrin.h>
#define INSTRUCTION __attribute__((target("sse4.2")))
#define crc_64 _mm_crc32_u64
#define crc_32 _mm_crc32_u32
#define crc_16 _mm_crc32_u16
#define crc_8 _mm_crc32_u8
#elif defined(__aarch64__) && defined(__linux__) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define INSTRUCTION __attribute__((target("+crc")))
#define crc_64(state, word) __crc32cd((uint32_t)(state), word)
#define crc_32 __crc32cw
#define crc_16 __crc32ch
#define crc_8 __crc32cb
#endif

named_kernel_t kernels[KERNELS_MAX];
size_t kernel_count;

/* --- table ------------------------------------------------------------------------------------------------------ */

static uint32_t slices[8][256]; /* slices[k][b]: the state after byte b and k zero bytes */

static void build_slices(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; bit++)
            state = times_x(state, CRC32C_POLYNOMIAL);
        slices[0][byte] = state;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t byte = 0; byte < 256; byte++)
            slices[k][byte] = (slices[k - 1][byte] >> 8) ^ slices[0][slices[k - 1][byte] & 0xff];
}

static uint32_t table_kernel(uint32_t state, const uint8_t *bytes, size_t length) {
    for (; length >= 8; bytes += 8, length -= 8) {
        uint32_t low = state ^ little_endian_32(bytes), high = little_endian_32(bytes + 4);
        state = slices[7][low & 0xff] ^ slices[6][low >> 8 & 0xff] ^ slices[5][low >> 16 & 0xff] ^ slices[4][low >> 24] ^
                slices[3][high & 0xff] ^ slices[2][high >> 8 & 0xff] ^ slices[1][high >> 16 & 0xff] ^ slices[0][high >> 24];
    }
    for (; length > 0; bytes++, length--)
        state = (state >> 8) ^ slices[0][(state ^ *bytes) & 0xff];
    return state;
}

#ifdef INSTRUCTION

/* --- sse4.2 and armv8 ------------------------------------------------------------------------------------------- */

#define STREAM_BYTES 128

static uint32_t shift_one_stream[4][256];  /* a state after STREAM_BYTES zero bytes, by its four bytes */
static uint32_t shift_two_streams[4][256]; /* the same after twice as many */

static void build_shift(uint32_t table[4][256], size_t zero_bytes) {
    for (int k = 0; k < 4; k++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t state = byte << 8 * k;
            for (size_t i = 0; i < zero_bytes; i++)
                state = (state >> 8) ^ slices[0][state & 0xff];
            table[k][byte] = state;
        }
}

static inline uint32_t shift(uint32_t table[4][256], uint32_t state) {
    return table[0][state & 0xff] ^ table[1][state >> 8 & 0xff] ^ table[2][state >> 16 & 0xff] ^ table[3][state >> 24];
}

static inline uint64_t load_64(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* One stream; for what is too short for three. */
INSTRUCTION static inline uint32_t one_stream(uint32_t state, const uint8_t *bytes, size_t length) {
    uint64_t wide = state;
    for (; length >= 8; bytes += 8, length -= 8)
        wide = crc_64(wide, load_64(bytes));
    state = (uint32_t)wide;
    if (length & 4) {
        state = crc_32(state, little_endian_32(bytes));
        bytes += 4;
    }
    if (length & 2) {
        state = crc_16(state, (uint16_t)(bytes[0] | bytes[1] << 8));
        bytes += 2;
    }
    return length & 1 ? crc_8(state, *bytes) : state;
}

INSTRUCTION static uint32_t three_streams_kernel(uint32_t state, const uint8_t *bytes, size_t length) {
    for (; length >= 3 * STREAM_BYTES; bytes += 3 * STREAM_BYTES, length -= 3 * STREAM_BYTES) {
        uint64_t first = state, second = 0, third = 0;
        for (int i = 0; i < 6; i++)
            __builtin_prefetch(bytes + PREFETCH_BYTES + 64 * i);
        for (size_t i = 0; i < STREAM_BYTES; i += 8) {
            first = crc_64(first, load_64(bytes + i));
            second = crc_64(second, load_64(bytes + STREAM_BYTES + i));
            third = crc_64(third, load_64(bytes + 2 * STREAM_BYTES + i));
        }
        state = shift(shift_two_streams, (uint32_t)first) ^ shift(shift_one_stream, (uint32_t)second) ^ (uint32_t)third;
    }
    return one_stream(state, bytes, length);
}

#endif

#ifdef HAVE_X86_KERNELS

/* --- avx512 ----------------------------------------------------------------------------------------------------- */

#define VECTOR_BYTES 64
#define FOLDED_BYTES_MIN (4 * VECTOR_BYTES) /* below this the folding at the end costs more than it saves */
#define AVX512 __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))

/* Multipliers that move 128 bits `distance` bytes further, for their low and their high half. After V. Gopal et al.,
 * "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009, for reflected bits:
 * x^(8 distance + 32) and x^(8 distance - 32) modulo P, both shifted by the one bit that a reflected product lacks. */
typedef struct {
    uint64_t low, high;
} fold_t;

static fold_t fold_4_vectors, fold_1_vector, fold_lanes[4];

static fold_t fold_by(size_t distance_bytes) {
    uint32_t power = X_TO_THE_0;
    fold_t fold = {0, 0};
    for (size_t exponent = 0; exponent <= 8 * distance_bytes + 32; exponent++) {
        if (exponent == 8 * distance_bytes - 32)
            fold.high = (uint64_t)power << 1;
        fold.low = (uint64_t)power << 1;
        power = times_x(power, CRC32C_POLYNOMIAL);
    }
    return fold;
}

static void build_folds(void) {
    fold_4_vectors = fold_by(4 * VECTOR_BYTES);
    fold_1_vector = fold_by(VECTOR_BYTES);
    for (size_t lane = 0; lane < 3; lane++)
        fold_lanes[lane] = fold_by(VECTOR_BYTES - 16 * (lane + 1));
    fold_lanes[3] = (fold_t){0, 0}; /* the last lane stays where it is */
}

AVX512 static inline __m512i multipliers(const fold_t *fold) {
    return _mm512_broadcast_i32x4(_mm_set_epi64x((long long)fold->high, (long long)fold->low));
}

AVX512 static inline __m512i folded(__m512i vector, __m512i by, __m512i into) {
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(vector, by, 0x00),
                                     _mm512_clmulepi64_epi128(vector, by, 0x11), into, 0x96); /* a ^ b ^ c */
}

/* The state behind the 64 bytes: three lanes folded into the last, whose 16 bytes the crc32 instruction reduces. */
AVX512 static inline uint32_t reduced(__m512i vector) {
    __m512i by = _mm512_loadu_si512(fold_lanes);
    __m512i moved = folded(vector, by, _mm512_setzero_si512());
    __m128i sum = _mm512_extracti32x4_epi32(vector, 3);
    sum = _mm_xor_si128(sum, _mm512_extracti32x4_epi32(moved, 0));
    sum = _mm_xor_si128(sum, _mm512_extracti32x4_epi32(moved, 1));
    sum = _mm_xor_si128(sum, _mm512_extracti32x4_epi32(moved, 2));
    uint64_t state = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(sum));
    return (uint32_t)_mm_crc32_u64(state, (uint64_t)_mm_extract_epi64(sum, 1));
}

AVX512 static uint32_t avx512_kernel(uint32_t state, const uint8_t *bytes, size_t length) {
    if (length < FOLDED_BYTES_MIN)
        return one_stream(state, bytes, length);
    const uint8_t *end = bytes + length;
    __m512i start = _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state));
    __m512i first = _mm512_xor_si512(_mm512_loadu_si512(bytes), start);
    __m512i second = _mm512_loadu_si512(bytes + VECTOR_BYTES);
    __m512i third = _mm512_loadu_si512(bytes + 2 * VECTOR_BYTES);
    __m512i fourth = _mm512_loadu_si512(bytes + 3 * VECTOR_BYTES);
    __m512i by = multipliers(&fold_4_vectors);
    for (bytes += 4 * VECTOR_BYTES; end - bytes >= 4 * VECTOR_BYTES; bytes += 4 * VECTOR_BYTES) {
        for (int i = 0; i < 4; i++)
            __builtin_prefetch(bytes + PREFETCH_BYTES + 64 * i);
        first = folded(first, by, _mm512_loadu_si512(bytes));
        second = folded(second, by, _mm512_loadu_si512(bytes + VECTOR_BYTES));
        third = folded(third, by, _mm512_loadu_si512(bytes + 2 * VECTOR_BYTES));
        fourth = folded(fourth, by, _mm512_loadu_si512(bytes + 3 * VECTOR_BYTES));
    }
    by = multipliers(&fold_1_vector);
    __m512i sum = folded(folded(folded(first, by, second), by, third), by, fourth);
    for (; end - bytes >= VECTOR_BYTES; bytes += VECTOR_BYTES)
        sum = folded(sum, by, _mm512_loadu_si512(bytes));
    return one_stream(reduced(sum), bytes, (size_t)(end - bytes));
}

#endif

static void add_kernel(const char *name, kernel_t run) {
    kernels[kernel_count++] = (named_kernel_t){name, run};
}

/* Fills the tables and the list of kernels; to be called once, before anything else. */
void build_kernels(void) {
    build_slices();
    kernel_count = 0;
#ifdef INSTRUCTION
    build_shift(shift_one_stream, STREAM_BYTES);
    build_shift(shift_two_streams, 2 * STREAM_BYTES);
#ifndef HAVE_X86_KERNELS
    if (getauxval(AT_HWCAP) & HWCAP_CRC32)
        add_kernel("armv8", three_streams_kernel);
#endif
#endif
#ifdef HAVE_X86_KERNELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        build_folds();
        /* cpu_supports also asks whether the operating system keeps the wide registers */
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("pclmul"))
            add_kernel("avx512", avx512_kernel);
        add_kernel("sse4.2", three_streams_kernel);
    }
#endif
    add_kernel("table", table_kernel);
}
