/* Which bit flipped: the discrete logarithm of a syndrome to the base x, by baby steps and giant steps (D. Shanks).
 *
 * Enters: a syndrome and the polynomial. Leaves: the exponent. A hash table of the first 2^15 powers of x is built once per
 * polynomial (half a millisecond, 512 KiB); a search multiplies by x^-(2^15) until it meets one of them, which takes
 * one step per 4 KiB of record. Everything here runs under the interpreter's lock.
 */

#include "_native.h"

#include <stdlib.h>

#define BABY_BITS 15
#define BABY_STEPS (1L << BABY_BITS)
#define SLOTS (2 * BABY_STEPS)
#define POLYNOMIALS_MAX 2

typedef struct {
    uint32_t power;
    int32_t exponent; /* -1: free */
} slot_t;

typedef struct {
    uint32_t polynomial;
    slot_t *slots;
    uint32_t back[4][256]; /* a word times x^-BABY_STEPS, by its four bytes */
} steps_t;

static steps_t known[POLYNOMIALS_MAX];
static size_t known_count;

/* Multiplication by 1/x: the constant term of P is 1, so the bit that a step of times_x drops can be told. */
static inline uint32_t over_x(uint32_t word, uint32_t polynomial) {
    return word & X_TO_THE_0 ? (word ^ polynomial) << 1 | 1 : word << 1;
}

static inline size_t slot_of(uint32_t power) {
    return (power * 0x9e3779b1u) >> (32 - BABY_BITS - 1);
}

static inline uint32_t image_of(const uint32_t image[32], uint32_t word) {
    uint32_t sum = 0;
    for (int bit = 0; bit < 32; bit++)
        if (word >> bit & 1)
            sum ^= image[bit];
    return sum;
}

/* Multiplying by x^-1 is linear: its matrix, squared BABY_BITS times, multiplies by x^-BABY_STEPS. */
static void build_back(steps_t *steps) {
    uint32_t image[32], squared[32];
    for (int bit = 0; bit < 32; bit++)
        image[bit] = over_x(1u << bit, steps->polynomial);
    for (int times = 0; times < BABY_BITS; times++) {
        for (int bit = 0; bit < 32; bit++)
            squared[bit] = image_of(image, image[bit]);
        for (int bit = 0; bit < 32; bit++)
            image[bit] = squared[bit];
    }
    for (int k = 0; k < 4; k++)
        for (uint32_t byte = 0; byte < 256; byte++)
            steps->back[k][byte] = image_of(image, byte << 8 * k);
}

static void build_slots(steps_t *steps) {
    for (size_t i = 0; i < SLOTS; i++)
        steps->slots[i].exponent = -1;
    uint32_t power = X_TO_THE_0;
    for (int32_t exponent = 0; exponent < BABY_STEPS; exponent++) {
        size_t at = slot_of(power);
        while (steps->slots[at].exponent >= 0)
            at = (at + 1) % SLOTS;
        steps->slots[at] = (slot_t){power, exponent};
        power = times_x(power, steps->polynomial);
    }
}

static const steps_t *steps_for(uint32_t polynomial) {
    for (size_t i = 0; i < known_count; i++)
        if (known[i].polynomial == polynomial)
            return &known[i];
    steps_t *steps = &known[known_count];
    steps->polynomial = polynomial;
    if ((steps->slots = malloc(SLOTS * sizeof *steps->slots)) == NULL)
        return NULL;
    build_slots(steps);
    build_back(steps);
    known_count++;
    return steps;
}

static long baby_step(const steps_t *steps, uint32_t power) {
    for (size_t at = slot_of(power); steps->slots[at].exponent >= 0; at = (at + 1) % SLOTS)
        if (steps->slots[at].power == power)
            return steps->slots[at].exponent;
    return -1;
}

long long locate_exponent(uint32_t syndrome, long long bits_max, uint32_t polynomial) {
    const steps_t *steps = steps_for(polynomial);
    if (steps == NULL)
        return -2;
    if (bits_max > UINT32_MAX) /* the powers of x repeat sooner */
        bits_max = UINT32_MAX;
    for (long long exponent = 0; exponent < bits_max; exponent += BABY_STEPS) {
        long baby = baby_step(steps, syndrome);
        if (baby >= 0)
            return exponent + baby < bits_max ? exponent + baby : -1;
        syndrome = steps->back[0][syndrome & 0xff] ^ steps->back[1][syndrome >> 8 & 0xff] ^
                   steps->back[2][syndrome >> 16 & 0xff] ^ steps->back[3][syndrome >> 24];
    }
    return -1;
}
