/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), the place of a flipped bit, and the short way through a LevelDB log.
 *
 * Enters: any contiguous buffer. Leaves: its checksum, or the run of intact LevelDB log fragments in it. Two kernels give the same answer: "sse4.2" uses the processor's
 * crc32 instruction on three streams 128 bytes apart (its latency is three cycles, so one stream alone would leave two
 * thirds of it idle; streams further apart lose memory bandwidth), "table" is slicing-by-8 for every other processor.
 * checksum/crc32c.py holds the Python twin and decides after a self-test whether this extension is used at all.
 *
 * Bits are reflected: the coefficient of x^0 is the most significant bit of a word, so multiplying by x shifts right.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u
#define X_TO_THE_0 0x80000000u
#define GIL_KEPT_BYTES 4096 /* below this a release costs more than another thread could gain */
#define STREAM_BYTES 128
#define MASK_DELTA 0xa282ead8u
#define HEADER_BYTES 7 /* of a LevelDB log: masked checksum (4), length (2), type (1); checksum/leveldb_log.py explains */
#define TYPE_AT 6
#define LAST_TYPE 4 /* types are 1 (FULL) to 4 (LAST) */

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_SSE42_KERNEL 1
#include <nmmintrin.h>
#endif

typedef uint32_t (*kernel_t)(uint32_t state, const uint8_t *bytes, size_t length);

static uint32_t slices[8][256]; /* slices[k][b]: the state after byte b and k zero bytes */

static void build_slices(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; bit++)
            state = (state >> 1) ^ (state & 1 ? POLYNOMIAL : 0);
        slices[0][byte] = state;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t byte = 0; byte < 256; byte++)
            slices[k][byte] = (slices[k - 1][byte] >> 8) ^ slices[0][slices[k - 1][byte] & 0xff];
}

static inline uint32_t little_endian_32(const uint8_t *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
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

#ifdef HAVE_SSE42_KERNEL

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

__attribute__((target("sse4.2"))) static uint32_t sse42_kernel(uint32_t state, const uint8_t *bytes, size_t length) {
    for (; length >= 3 * STREAM_BYTES; bytes += 3 * STREAM_BYTES, length -= 3 * STREAM_BYTES) {
        uint64_t first = state, second = 0, third = 0;
        for (size_t i = 0; i < STREAM_BYTES; i += 8) {
            first = _mm_crc32_u64(first, load_64(bytes + i));
            second = _mm_crc32_u64(second, load_64(bytes + STREAM_BYTES + i));
            third = _mm_crc32_u64(third, load_64(bytes + 2 * STREAM_BYTES + i));
        }
        state = shift(shift_two_streams, (uint32_t)first) ^ shift(shift_one_stream, (uint32_t)second) ^ (uint32_t)third;
    }
    uint64_t wide = state;
    for (; length >= 8; bytes += 8, length -= 8)
        wide = _mm_crc32_u64(wide, load_64(bytes));
    state = (uint32_t)wide;
    for (; length > 0; bytes++, length--)
        state = _mm_crc32_u8(state, *bytes);
    return state;
}

#endif

static kernel_t kernel = table_kernel;
static const char *kernel_name = "table";

static void choose_kernel(void) {
#ifdef HAVE_SSE42_KERNEL
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        build_shift(shift_one_stream, STREAM_BYTES);
        build_shift(shift_two_streams, 2 * STREAM_BYTES);
        kernel = sse42_kernel;
        kernel_name = "sse4.2";
    }
#endif
}

/* A word argument; sets ValueError and returns -1 when it isn't one of 0 .. 2**32 - 1. */
static int as_word(PyObject *number, uint32_t *word) {
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
    }
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a 32-bit word must be 0 to 2**32 - 1");
        return -1;
    }
    *word = (uint32_t)value;
    return 0;
}

static uint32_t checksum_of(kernel_t run, uint32_t crc, const uint8_t *bytes, size_t length) {
    if (length < GIL_KEPT_BYTES)
        return ~run(~crc, bytes, length);
    Py_BEGIN_ALLOW_THREADS
    crc = ~run(~crc, bytes, length);
    Py_END_ALLOW_THREADS
    return crc;
}

static PyObject *checksum_with(kernel_t run, PyObject *const *args, Py_ssize_t count) {
    uint32_t crc = 0;
    Py_buffer view;
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "crc32c takes a buffer and optionally the checksum to go on from");
        return NULL;
    }
    if (count == 2 && as_word(args[1], &crc) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    crc = checksum_of(run, crc, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(crc);
}

static PyObject *py_crc32c(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return checksum_with(kernel, args, count);
}

static PyObject *py_crc32c_table(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return checksum_with(table_kernel, args, count);
}

/* The d below bits_max with x^d = syndrome (mod P), found by stepping x through its powers; -1 if there is none. */
static PyObject *py_locate_exponent(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    uint32_t syndrome, power = X_TO_THE_0;
    long long found = -1;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "locate_exponent takes the syndrome and the number of bits");
        return NULL;
    }
    if (as_word(args[0], &syndrome) < 0)
        return NULL;
    long long bits_max = PyLong_AsLongLong(args[1]);
    if (bits_max == -1 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (long long exponent = 0; exponent < bits_max; exponent++) {
        if (power == syndrome) {
            found = exponent;
            break;
        }
        power = (power >> 1) ^ (power & 1 ? POLYNOMIAL : 0);
    }
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(found);
}

static inline uint32_t mask(uint32_t crc) {
    return (crc >> 15 | crc << 17) + MASK_DELTA;
}

/* The end of the intact fragment of a LevelDB log at `position`, or 0 if there is none. */
static Py_ssize_t intact_end(const uint8_t *block, Py_ssize_t size, Py_ssize_t position) {
    if (size - position < HEADER_BYTES)
        return 0;
    const uint8_t *header = block + position;
    Py_ssize_t length = header[4] | header[5] << 8;
    if (header[TYPE_AT] < 1 || header[TYPE_AT] > LAST_TYPE || length > size - position - HEADER_BYTES)
        return 0;
    uint32_t crc = checksum_of(kernel, 0, header + TYPE_AT, (size_t)length + 1);
    return mask(crc) == little_endian_32(header) ? position + HEADER_BYTES + length : 0;
}

/* `end`, or the end of a full block if only its trailer of zeros follows. */
static Py_ssize_t past_trailer(const uint8_t *block, Py_ssize_t size, Py_ssize_t end, int is_full) {
    if (!is_full || size - end >= HEADER_BYTES)
        return end;
    for (Py_ssize_t i = end; i < size; i++)
        if (block[i] != 0)
            return end;
    return size;
}

/* One fragment as (type, begin, end, payload or None), with offsets in the file. */
static PyObject *fragment(const uint8_t *block, Py_ssize_t position, Py_ssize_t end, Py_ssize_t past, long long offset,
                          int with_data) {
    const char *payload = (const char *)block + position + HEADER_BYTES;
    long kind = block[position + TYPE_AT];
    if (!with_data)
        return Py_BuildValue("(lLLO)", kind, offset + position, offset + past, Py_None);
    return Py_BuildValue("(lLLy#)", kind, offset + position, offset + past, payload, end - position - HEADER_BYTES);
}

/* Appends the run of intact fragments that begins at `position`; -1 at an error. */
static int append_run(PyObject *list, const uint8_t *block, Py_ssize_t size, Py_ssize_t position, long long offset,
                      int is_full, int with_data) {
    for (Py_ssize_t end; (end = intact_end(block, size, position)) != 0;) {
        Py_ssize_t past = past_trailer(block, size, end, is_full);
        PyObject *item = fragment(block, position, end, past, offset, with_data);
        if (item == NULL)
            return -1;
        int failed = PyList_Append(list, item);
        Py_DECREF(item);
        if (failed < 0)
            return -1;
        position = past;
    }
    return 0;
}

static PyObject *py_leveldb_run(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer view;
    Py_ssize_t position;
    long long offset;
    int is_full, with_data;
    if (!PyArg_ParseTuple(args, "y*nLpp", &view, &position, &offset, &is_full, &with_data))
        return NULL;
    PyObject *list = NULL;
    if (position < 0 || position > view.len)
        PyErr_SetString(PyExc_ValueError, "the position must lie in the block");
    else if ((list = PyList_New(0)) != NULL &&
             append_run(list, view.buf, view.len, position, offset, is_full, with_data) < 0)
        Py_CLEAR(list);
    PyBuffer_Release(&view);
    return list;
}

static PyMethodDef methods[] = {
    {"crc32c", (PyCFunction)(void (*)(void))py_crc32c, METH_FASTCALL, "crc32c(data, crc=0): the fastest kernel here."},
    {"crc32c_table", (PyCFunction)(void (*)(void))py_crc32c_table, METH_FASTCALL,
     "crc32c_table(data, crc=0): the same through the portable kernel."},
    {"locate_exponent", (PyCFunction)(void (*)(void))py_locate_exponent, METH_FASTCALL,
     "locate_exponent(syndrome, bits_max): the d with x^d = syndrome, or -1."},
    {"leveldb_run", py_leveldb_run, METH_VARARGS,
     "leveldb_run(block, position, offset, is_full, with_data): the intact fragments of a LevelDB log from a position."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "checksum._crc32c", "CRC-32C in C; see checksum/crc32c.py.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__crc32c(void) {
    build_slices();
    choose_kernel();
    PyObject *module = PyModule_Create(&module_definition);
    if (module != NULL && PyModule_AddStringConstant(module, "KERNEL", kernel_name) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
