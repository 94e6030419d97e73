/* The extension's front door: takes Python's arguments apart, lets go of the interpreter's lock, and calls the C files.
 *
 * Enters: any contiguous buffer. Leaves: checksums, the place of a flipped bit, intact runs of records.
 * checksum/crc32c.py decides after a self-test of each kernel which of them are used, and whether any is.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "_native.h"

#define GIL_KEPT_BYTES 4096 /* below this a release costs more than another thread could gain */

static const named_kernel_t *process_kernel = kernels; /* build_kernels puts the fastest first */
static _Thread_local const named_kernel_t *thread_kernel; /* goes before it in a thread that asked for another */

static const named_kernel_t *in_use(void) {
    return thread_kernel != NULL ? thread_kernel : process_kernel;
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

/* The kernel of that name; sets ValueError and returns NULL if this processor has none. */
static const named_kernel_t *kernel_named(PyObject *name) {
    const char *wanted = PyUnicode_AsUTF8(name);
    if (wanted == NULL)
        return NULL;
    for (size_t i = 0; i < kernel_count; i++)
        if (strcmp(kernels[i].name, wanted) == 0)
            return &kernels[i];
    PyErr_Format(PyExc_ValueError, "this processor has no CRC-32C kernel '%s'", wanted);
    return NULL;
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
    if (view.len < GIL_KEPT_BYTES)
        crc = ~run(~crc, view.buf, (size_t)view.len);
    else {
        Py_BEGIN_ALLOW_THREADS
        crc = ~run(~crc, view.buf, (size_t)view.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(crc);
}

static PyObject *py_crc32c(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return checksum_with(in_use()->run, args, count);
}

static PyObject *py_crc32c_with(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const named_kernel_t *kernel;
    if (count < 1) {
        PyErr_SetString(PyExc_TypeError, "crc32c_with takes the name of a kernel and a buffer");
        return NULL;
    }
    if ((kernel = kernel_named(args[0])) == NULL)
        return NULL;
    return checksum_with(kernel->run, args + 1, count - 1);
}

static PyObject *py_use(PyObject *module, PyObject *name) {
    (void)module;
    const named_kernel_t *kernel = kernel_named(name);
    if (kernel == NULL)
        return NULL;
    process_kernel = kernel;
    Py_RETURN_NONE;
}

static PyObject *py_use_here(PyObject *module, PyObject *name) {
    (void)module;
    const named_kernel_t *kernel = name == Py_None ? NULL : kernel_named(name);
    if (kernel == NULL && name != Py_None)
        return NULL;
    thread_kernel = kernel;
    Py_RETURN_NONE;
}

static PyObject *py_implementation(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyUnicode_FromString(in_use()->name);
}

static PyObject *py_locate_exponent(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    uint32_t syndrome, polynomial = CRC32C_POLYNOMIAL;
    if (count < 2 || count > 3) {
        PyErr_SetString(PyExc_TypeError, "locate_exponent takes the syndrome, the number of bits, and a polynomial");
        return NULL;
    }
    if (as_word(args[0], &syndrome) < 0 || (count == 3 && as_word(args[2], &polynomial) < 0))
        return NULL;
    if (polynomial != CRC32C_POLYNOMIAL && polynomial != ZLIB_CRC32_POLYNOMIAL) {
        PyErr_SetString(PyExc_ValueError, "flipped bits are located for CRC-32C and zlib's CRC-32 only");
        return NULL;
    }
    long long bits_max = PyLong_AsLongLong(args[1]);
    if (bits_max == -1 && PyErr_Occurred())
        return NULL;
    long long exponent = locate_exponent(syndrome, bits_max, polynomial);
    return exponent == -2 ? PyErr_NoMemory() : PyLong_FromLongLong(exponent);
}

/* One fragment as (type, begin, end, payload or None), with offsets in the file. */
static PyObject *fragment(const uint8_t *block, size_t position, size_t end, size_t past, long long offset,
                          int with_data) {
    const char *payload = (const char *)block + position + LOG_HEADER_BYTES;
    long kind = block[position + LOG_TYPE_AT];
    long long from = offset + (long long)position, to = offset + (long long)past;
    if (!with_data)
        return Py_BuildValue("(lLLO)", kind, from, to, Py_None);
    return Py_BuildValue("(lLLy#)", kind, from, to, payload, (Py_ssize_t)(end - position - LOG_HEADER_BYTES));
}

/* Appends the run of intact fragments that begins at `position`; -1 at an error. */
static int append_run(PyObject *list, const uint8_t *block, size_t size, size_t position, long long offset, int is_full,
                      int with_data) {
    for (size_t end; (end = intact_fragment_end(in_use()->run, block, size, position, LOG_TYPE_MAX)) != 0;) {
        size_t past = past_trailer(block, size, end, is_full, LOG_HEADER_BYTES);
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

static int lies_in(const Py_buffer *view, Py_ssize_t position) {
    if (position >= 0 && position <= view->len)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the position must lie in the buffer");
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
    if (lies_in(&view, position) && (list = PyList_New(0)) != NULL &&
        append_run(list, view.buf, (size_t)view.len, (size_t)position, offset, is_full, with_data) < 0)
        Py_CLEAR(list);
    PyBuffer_Release(&view);
    return list;
}

static PyObject *py_leveldb_walk(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer view;
    Py_ssize_t block_bytes, position;
    long long offset, counted_from;
    log_walk_t walk = {.settled = -1};
    if (!PyArg_ParseTuple(args, "y*nnLLLpL", &view, &block_bytes, &position, &offset, &counted_from, &walk.open_begin,
                          &walk.is_leading, &walk.number))
        return NULL;
    int is_sane = lies_in(&view, position);
    if (is_sane && block_bytes < 1) {
        PyErr_SetString(PyExc_ValueError, "a block holds at least one byte");
        is_sane = 0;
    }
    if (is_sane) {
        walk.position = (size_t)position;
        kernel_t run = in_use()->run;
        Py_BEGIN_ALLOW_THREADS
        walk_log(run, view.buf, (size_t)view.len, (size_t)block_bytes, offset, counted_from, &walk);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    if (!is_sane)
        return NULL;
    return Py_BuildValue("(nLLLNL)", (Py_ssize_t)walk.position, walk.settled, walk.records, walk.open_begin,
                         PyBool_FromLong(walk.is_leading), walk.number);
}

static PyObject *py_tfrecord_walk(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer view;
    Py_ssize_t position;
    long long counted_from, records = 0;
    if (!PyArg_ParseTuple(args, "y*nL", &view, &position, &counted_from))
        return NULL;
    int is_sane = lies_in(&view, position);
    if (is_sane) {
        kernel_t run = in_use()->run;
        Py_BEGIN_ALLOW_THREADS
        position = (Py_ssize_t)walk_tfrecords(run, view.buf, (size_t)view.len, (size_t)position, counted_from, &records);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return is_sane ? Py_BuildValue("(nL)", position, records) : NULL;
}

/* Line by line, which compilers turn into vector instructions, and then byte by byte. */
static size_t zeros_end(const uint8_t *bytes, size_t size, size_t position) {
    enum { WORDS = 32 };
    for (uint64_t line[WORDS]; size - position >= sizeof line; position += sizeof line) {
        uint64_t any = 0;
        memcpy(line, bytes + position, sizeof line);
        for (size_t i = 0; i < WORDS; i++)
            any |= line[i];
        if (any != 0)
            break;
    }
    while (position < size && bytes[position] == 0)
        position++;
    return position;
}

#define PLAN_NAME "checksum.framing_plan"

static void free_plan(PyObject *capsule) {
    free(PyCapsule_GetPointer(capsule, PLAN_NAME));
}

static PyObject *py_framing_plan(PyObject *module, PyObject *numbers) {
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(numbers, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    int is_whole = view.len % (Py_ssize_t)sizeof(uint64_t) == 0;
    framing_t *plan = is_whole ? framing_of(view.buf, (size_t)view.len / sizeof(uint64_t)) : NULL;
    PyBuffer_Release(&view);
    if (plan == NULL) {
        PyErr_SetString(PyExc_ValueError, "these numbers make no plan of a record");
        return NULL;
    }
    PyObject *capsule = PyCapsule_New(plan, PLAN_NAME, free_plan);
    if (capsule == NULL)
        free(plan);
    return capsule;
}

static PyObject *py_framing_walk(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *capsule;
    Py_buffer view;
    Py_ssize_t position;
    long long counted_from, records = 0;
    if (!PyArg_ParseTuple(args, "Oy*nL", &capsule, &view, &position, &counted_from))
        return NULL;
    const framing_t *plan = PyCapsule_GetPointer(capsule, PLAN_NAME);
    int is_sane = plan != NULL && lies_in(&view, position);
    if (is_sane) {
        kernel_t run = in_use()->run;
        Py_BEGIN_ALLOW_THREADS
        position = (Py_ssize_t)walk_framed(run, plan, view.buf, (size_t)view.len, (size_t)position, counted_from, &records);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return is_sane ? Py_BuildValue("(nL)", position, records) : NULL;
}

/* Appends up to `count_max` intact records as (begin, end, payload or None), with offsets in the file; -1 at an error. */
static int append_records(PyObject *list, const framing_t *plan, const Py_buffer *view, size_t position,
                          long long offset, Py_ssize_t kept_max, Py_ssize_t count_max) {
    const char *bytes = view->buf;
    size_t size = (size_t)view->len, length, end;
    while (PyList_GET_SIZE(list) < count_max &&
           (end = intact_record_end(in_use()->run, plan, view->buf, size, position, &length)) != 0) {
        const char *payload = (Py_ssize_t)length <= kept_max ? bytes + position + plan->header_bytes : NULL;
        PyObject *item = Py_BuildValue("(LLy#)", offset + (long long)position, offset + (long long)end, payload,
                                       (Py_ssize_t)length); /* y# makes None of NULL */
        int failed = item == NULL || PyList_Append(list, item) < 0;
        Py_XDECREF(item);
        if (failed)
            return -1;
        position = end;
    }
    return 0;
}

static PyObject *py_framing_run(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *capsule;
    Py_buffer view;
    Py_ssize_t position, kept_max, count_max;
    long long offset;
    if (!PyArg_ParseTuple(args, "Oy*nLnn", &capsule, &view, &position, &offset, &kept_max, &count_max))
        return NULL;
    const framing_t *plan = PyCapsule_GetPointer(capsule, PLAN_NAME);
    PyObject *list = NULL;
    if (plan != NULL && lies_in(&view, position) && (list = PyList_New(0)) != NULL &&
        append_records(list, plan, &view, (size_t)position, offset, kept_max, count_max) < 0)
        Py_CLEAR(list);
    PyBuffer_Release(&view);
    return list;
}

static PyObject *py_zeros_end(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer view;
    Py_ssize_t position;
    if (!PyArg_ParseTuple(args, "y*n", &view, &position))
        return NULL;
    int is_sane = lies_in(&view, position);
    if (is_sane) {
        Py_BEGIN_ALLOW_THREADS
        position = (Py_ssize_t)zeros_end(view.buf, (size_t)view.len, (size_t)position);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return is_sane ? PyLong_FromSsize_t(position) : NULL;
}

#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef methods[] = {
    {"crc32c", FASTCALL(py_crc32c), METH_FASTCALL, "crc32c(data, crc=0): by the kernel in use."},
    {"crc32c_with", FASTCALL(py_crc32c_with), METH_FASTCALL, "crc32c_with(kernel, data, crc=0): by the named kernel."},
    {"use", py_use, METH_O, "use(kernel): everything here computes by the named kernel from now on."},
    {"use_here", py_use_here, METH_O, "use_here(kernel or None): the calling thread computes by it instead, or no longer."},
    {"implementation", py_implementation, METH_NOARGS, "implementation(): the name of the kernel that computes here."},
    {"locate_exponent", FASTCALL(py_locate_exponent), METH_FASTCALL,
     "locate_exponent(syndrome, bits_max, polynomial=CRC-32C's): the d with x^d = syndrome, or -1."},
    {"leveldb_run", py_leveldb_run, METH_VARARGS,
     "leveldb_run(block, position, offset, is_full, with_data): the intact fragments of a LevelDB log from a position."},
    {"leveldb_walk", py_leveldb_walk, METH_VARARGS,
     "leveldb_walk(blocks, block_bytes, position, offset, counted_from, open_begin, is_leading, number) -> (position, "
     "settled, records, open_begin, is_leading, number): over the intact records of whole blocks; log_walk_t explains."},
    {"tfrecord_walk", py_tfrecord_walk, METH_VARARGS,
     "tfrecord_walk(buffer, position, counted_from) -> (position, records): over the intact records that lie in it."},
    {"framing_plan", py_framing_plan, METH_O,
     "framing_plan(numbers): the plan of a record, from the 64-bit words that framing_t explains."},
    {"framing_run", py_framing_run, METH_VARARGS,
     "framing_run(plan, buffer, position, offset, kept_max, count_max): [(begin, end, payload or None)], intact records."},
    {"framing_walk", py_framing_walk, METH_VARARGS,
     "framing_walk(plan, buffer, position, counted_from) -> (position, records): over the intact records that lie in it."},
    {"zeros_end", py_zeros_end, METH_VARARGS, "zeros_end(buffer, position): where the zeros that begin there end."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "checksum._crc32c", "CRC-32C in C; see checksum/crc32c.py.", 0, methods, NULL, NULL, NULL, NULL,
};

static PyObject *kernel_names(void) {
    PyObject *names = PyTuple_New((Py_ssize_t)kernel_count);
    for (size_t i = 0; names != NULL && i < kernel_count; i++) {
        PyObject *name = PyUnicode_FromString(kernels[i].name);
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyTuple_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    return names;
}

PyMODINIT_FUNC PyInit__crc32c(void) {
    build_kernels();
    PyObject *module = PyModule_Create(&module_definition);
    PyObject *names = module == NULL ? NULL : kernel_names();
    if (names == NULL || PyModule_AddObject(module, "KERNELS", names) < 0) {
        Py_XDECREF(names);
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
