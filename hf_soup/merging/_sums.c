/* Weighted sums of arrays in one pass: widened, multiplied, added, divided and rounded, as in methods/linear.py.

This module is optional: without a compiler, torch computes the same in several passes. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024 /* elements of which the sums stay in the cache of a core */
#define MOST 64    /* arrays in one call */

/* Two versions of each loop, chosen when the module is loaded; neither may fuse a product with an addition. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORIZED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORIZED
#endif

typedef struct {
    const char *inputs[MOST];
    double weights[MOST];
    int count;         /* arrays */
    Py_ssize_t length; /* elements of each */
    char *sums;        /* of the arrays before these, and then of all; or NULL */
    int begins;        /* whether there are none before these */
    char *out;         /* where results go, or NULL */
    double total;      /* by which sums are divided, or 0 */
} Work;

static inline float from_bfloat16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

static inline float from_float16(uint16_t half) { /* exact, also where processors take subnormal numbers for zero */
    const uint32_t twice = (uint32_t)half << 17; /* without the sign */
    uint32_t bits = (twice >> 4) + 0x70000000, small_bits = (twice >> 17) | 0x3f000000;
    float value, small, scale = 1.92592994e-34f; /* 2^-112 */
    memcpy(&value, &bits, 4);
    value *= scale;
    memcpy(&small, &small_bits, 4);
    small -= 0.5f; /* subnormal numbers of 16 bits */
    memcpy(&bits, &value, 4);
    memcpy(&small_bits, &small, 4);
    bits = (twice < 1u << 27 ? small_bits : bits) | (uint32_t)(half & 0x8000) << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t to_bfloat16(float value) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded); /* NaN stays NaN */
}

static inline uint16_t to_float16(float value) {
    uint32_t bits, sign, half;
    memcpy(&bits, &value, 4);
    sign = (bits >> 16) & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x47800000) { /* too large, infinite or NaN: all are reported as not finite */
        half = 0x7c00;
    } else if (bits < 0x38800000) { /* subnormal: adding 1/2 lets the processor round the last bits away */
        float shifted, half_unit = 0.5f;
        memcpy(&shifted, &bits, 4);
        shifted += half_unit;
        memcpy(&half, &shifted, 4);
        half -= 0x3f000000;
    } else {
        half = (bits + 0xfff + ((bits >> 13) & 1) - 0x38000000) >> 13;
    }
    return (uint16_t)(half | sign);
}

#define AS_IS(value) (value)

/* One loop for each type. An element of which all bits of the exponent are set is not finite. */
#define DEFINE_SUM(name, element, bits_type, wide, load, store, exponent)                                       \
    VECTORIZED static int name(const Work *work) {                                                             \
        int is_finite = 1;                                                                                     \
        for (Py_ssize_t start = 0; start < work->length; start += BLOCK) {                                     \
            wide sums[BLOCK];                                                                                  \
            Py_ssize_t size = work->length - start < BLOCK ? work->length - start : BLOCK;                     \
            int first = 0;                                                                                     \
            if (work->begins) {                                                                                \
                const element *x = (const element *)work->inputs[0] + start;                                   \
                const wide weight = (wide)work->weights[0];                                                    \
                for (Py_ssize_t i = 0; i < size; i++) sums[i] = (wide)load(x[i]) * weight;                     \
                first = 1;                                                                                     \
            } else {                                                                                           \
                memcpy(sums, (wide *)work->sums + start, size * sizeof(wide));                                 \
            }                                                                                                  \
            for (int k = first; k < work->count; k++) {                                                        \
                const element *x = (const element *)work->inputs[k] + start;                                   \
                const wide weight = (wide)work->weights[k];                                                    \
                for (Py_ssize_t i = 0; i < size; i++) sums[i] += (wide)load(x[i]) * weight;                    \
            }                                                                                                  \
            if (!work->out) {                                                                                  \
                memcpy((wide *)work->sums + start, sums, size * sizeof(wide));                                 \
                continue;                                                                                      \
            }                                                                                                  \
            if (work->total != 0) {                                                                            \
                const wide total = (wide)work->total;                                                          \
                for (Py_ssize_t i = 0; i < size; i++) sums[i] /= total;                                        \
            }                                                                                                  \
            element *out = (element *)work->out + start;                                                       \
            bits_type unset = exponent;                                                                        \
            for (Py_ssize_t i = 0; i < size; i++) {                                                            \
                element value = store(sums[i]);                                                                \
                bits_type bits;                                                                                \
                memcpy(&bits, &value, sizeof(bits));                                                           \
                out[i] = value;                                                                                \
                bits_type rest = ~bits & exponent;                                                             \
                unset = rest < unset ? rest : unset;                                                           \
            }                                                                                                  \
            is_finite &= unset != 0;                                                                           \
        }                                                                                                      \
        return is_finite;                                                                                      \
    }

DEFINE_SUM(sum_float32, float, uint32_t, double, AS_IS, (float), 0x7f800000u)
DEFINE_SUM(sum_bfloat16, uint16_t, uint16_t, float, from_bfloat16, to_bfloat16, 0x7f80)
DEFINE_SUM(sum_float16, uint16_t, uint16_t, float, from_float16, to_float16, 0x7c00)

static PyObject *weighted_sum(PyObject *module, PyObject *args) {
    const char *type;
    PyObject *inputs, *weights, *sums, *out;
    Work work = {.count = 0};
    Py_buffer views[MOST + 2];
    int n_views = 0, is_finite = 1;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "sO!O!OpOd", &type, &PyList_Type, &inputs, &PyTuple_Type, &weights, &sums,
                          &work.begins, &out, &work.total))
        return NULL;
    int (*sum)(const Work *) = !strcmp(type, "float32") ? sum_float32
                               : !strcmp(type, "bfloat16") ? sum_bfloat16
                               : !strcmp(type, "float16") ? sum_float16 : NULL;
    const Py_ssize_t itemsize = sum == sum_float32 ? 4 : 2, width = 2 * itemsize;
    const Py_ssize_t count = PyList_GET_SIZE(inputs);
    if (!sum || count < 1 || count > MOST || count != PyTuple_GET_SIZE(weights)) {
        PyErr_SetString(PyExc_ValueError, "sums are of 1 to 64 arrays of float32, bfloat16 or float16");
        return NULL;
    }
    for (Py_ssize_t k = 0; k < count; k++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(inputs, k), &views[n_views], PyBUF_SIMPLE)) goto release;
        const Py_buffer *view = &views[n_views++];
        if (k == 0) work.length = view->len / itemsize;
        work.inputs[k] = view->buf;
        work.weights[k] = PyFloat_AsDouble(PyTuple_GET_ITEM(weights, k));
        if (view->len != work.length * itemsize) PyErr_SetString(PyExc_ValueError, "arrays of different sizes");
        if (PyErr_Occurred()) goto release;
    }
    work.count = (int)count;
    if (sums != Py_None) {
        if (PyObject_GetBuffer(sums, &views[n_views], PyBUF_WRITABLE)) goto release;
        work.sums = views[n_views].buf;
        if (views[n_views++].len < work.length * width) PyErr_SetString(PyExc_ValueError, "no room for sums");
    }
    if (out != Py_None) {
        if (PyObject_GetBuffer(out, &views[n_views], PyBUF_WRITABLE)) goto release;
        work.out = views[n_views].buf;
        if (views[n_views++].len < work.length * itemsize) PyErr_SetString(PyExc_ValueError, "no room for results");
    }
    if ((!work.begins || !work.out) && !work.sums) PyErr_SetString(PyExc_ValueError, "no sums to go on with");
    if (PyErr_Occurred()) goto release;
    Py_BEGIN_ALLOW_THREADS
    is_finite = sum(&work);
    Py_END_ALLOW_THREADS
    result = PyBool_FromLong(is_finite);
release:
    while (n_views) PyBuffer_Release(&views[--n_views]);
    return result;
}

static PyMethodDef methods[] = {
    {"weighted_sum", weighted_sum, METH_VARARGS,
     "weighted_sum(type, inputs, weights, sums, begins, out, total): whether all results are finite."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_sums", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__sums(void) { return PyModule_Create(&definition); }
