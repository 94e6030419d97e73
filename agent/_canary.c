/* Sweeps a block of memory for words that no longer hold what was written, past every cache.

   lock(block)                         keep it in memory; OSError if the limit on locked memory forbids it
   fill(block, begin, end, word)       write the word everywhere in [begin, end), on x86-64 past the caches
   sweep(block, begin, end, word)      (number of words that differ, [(offset, found), ..] of the first FOUND_MAX)
   address(block)                      where it begins in this process

   Offsets are bytes and multiples of a page. A line is flushed before it's read, because a cache would answer with what
   was written, whatever the memory holds: CLFLUSH or CLFLUSHOPT of x86-64 (Intel SDM volume 2A), DC CIVAC of ARMv8-A,
   which Linux permits to processes. Elsewhere there is no extension. The interpreter runs on while a sweep goes on. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <sys/mman.h>

enum { LINE = 64, PAGE = 4096, FOUND_MAX = 64 };

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

static int has_clflushopt;

static void look_at_processor(void) {
    unsigned a, b = 0, c, d;
    has_clflushopt = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_CLFLUSHOPT;
}

/* CLFLUSH waits for the line before it, CLFLUSHOPT only for the fence: a sweep takes a third of the time. */
__attribute__((target("clflushopt"))) static void flush_lines_at_once(const char *page) {
    for (int at = 0; at < PAGE; at += LINE) _mm_clflushopt((void *)(page + at));
}

static void flush_page(const char *page) {
    if (has_clflushopt) flush_lines_at_once(page);
    else for (int at = 0; at < PAGE; at += LINE) _mm_clflush(page + at);
    _mm_mfence();
}

/* A store that goes past the caches: writing and then flushing took sixty times as long. */
static void write_word(uint64_t *at, uint64_t word) { _mm_stream_si64((long long *)at, (long long)word); }
static void end_of_writing(void) { _mm_sfence(); }

#elif defined(__aarch64__)
static void look_at_processor(void) {}

static void flush_page(const char *page) {
    for (int at = 0; at < PAGE; at += LINE) __asm__ volatile("dc civac, %0" : : "r"(page + at) : "memory");
    __asm__ volatile("dsb sy" : : : "memory");
}

static void write_word(uint64_t *at, uint64_t word) { *at = word; } /* the sweep flushes it before it reads */
static void end_of_writing(void) {}

#else
#error "no instruction is known here that flushes a cache line"
#endif

typedef struct {
    Py_ssize_t offset;
    uint64_t word;
} Found;

static void fill_pages(char *block, Py_ssize_t begin, Py_ssize_t end, uint64_t word) {
    for (Py_ssize_t page = begin; page < end; page += PAGE) {
        uint64_t *words = (uint64_t *)(block + page);
        for (size_t i = 0; i < PAGE / sizeof *words; i++) write_word(words + i, word);
    }
    end_of_writing();
}

static Py_ssize_t sweep_pages(const char *block, Py_ssize_t begin, Py_ssize_t end, uint64_t word, Found *found) {
    Py_ssize_t differing = 0;
    for (Py_ssize_t page = begin; page < end; page += PAGE) {
        flush_page(block + page);
        const volatile uint64_t *words = (const volatile uint64_t *)(block + page);
        for (size_t i = 0; i < PAGE / sizeof *words; i++) {
            uint64_t value = words[i];
            if (value == word) continue;
            if (differing < FOUND_MAX) found[differing] = (Found){page + (Py_ssize_t)(i * sizeof *words), value};
            differing++;
        }
    }
    return differing;
}

static int check_range(const Py_buffer *block, Py_ssize_t begin, Py_ssize_t end) {
    if (begin < 0 || begin > end || end > block->len || begin % PAGE || end % PAGE || (uintptr_t)block->buf % PAGE) {
        PyErr_SetString(PyExc_ValueError, "a range within the block, of whole pages, is needed");
        return -1;
    }
    return 0;
}

static PyObject *fill(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer block;
    Py_ssize_t begin, end;
    unsigned long long word;
    if (!PyArg_ParseTuple(args, "w*nnK", &block, &begin, &end, &word)) return NULL;
    int is_wrong = check_range(&block, begin, end);
    if (!is_wrong) {
        Py_BEGIN_ALLOW_THREADS
        fill_pages(block.buf, begin, end, word);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&block);
    if (is_wrong) return NULL;
    Py_RETURN_NONE;
}

static PyObject *found_list(const Found *found, Py_ssize_t count) {
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *pair = Py_BuildValue("nK", found[i].offset, (unsigned long long)found[i].word);
        if (!pair || PyList_Append(list, pair) < 0) Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

static PyObject *sweep(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer block;
    Py_ssize_t begin, end, differing = 0;
    unsigned long long word;
    Found found[FOUND_MAX];
    if (!PyArg_ParseTuple(args, "w*nnK", &block, &begin, &end, &word)) return NULL;
    int is_wrong = check_range(&block, begin, end);
    if (!is_wrong) {
        Py_BEGIN_ALLOW_THREADS
        differing = sweep_pages(block.buf, begin, end, word, found);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&block);
    if (is_wrong) return NULL;
    PyObject *list = found_list(found, differing < FOUND_MAX ? differing : FOUND_MAX);
    return list ? Py_BuildValue("nN", differing, list) : NULL;
}

static PyObject *lock(PyObject *self, PyObject *object) {
    (void)self;
    Py_buffer block;
    if (PyObject_GetBuffer(object, &block, PyBUF_WRITABLE) < 0) return NULL;
    int status = mlock(block.buf, (size_t)block.len);
    PyObject *result = status ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
    PyBuffer_Release(&block);
    return result;
}

static PyObject *address(PyObject *self, PyObject *object) {
    (void)self;
    Py_buffer block;
    if (PyObject_GetBuffer(object, &block, PyBUF_WRITABLE) < 0) return NULL;
    PyObject *result = PyLong_FromVoidPtr(block.buf);
    PyBuffer_Release(&block);
    return result;
}

static PyMethodDef methods[] = {
    {"lock", lock, METH_O, "Keeps the block in memory."},
    {"fill", fill, METH_VARARGS, "Writes a word everywhere in a range."},
    {"sweep", sweep, METH_VARARGS, "The words of a range that differ, read past the caches."},
    {"address", address, METH_O, "Where the block begins in this process."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_canary", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__canary(void) {
    look_at_processor();
    return PyModule_Create(&module);
}
