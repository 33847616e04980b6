/* What the program holds, and how frames carry it: the JSON of a header and the arrays behind it. */
#pragma once
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays travel as they lie in memory");
enum { RUNNER_VERSION = 1, LONGEST_LINE = 1 << 20, DEEPEST = 32, MAX_RANK = 16, MAX_ENDS = 256 };
enum { IN, OUT };
#define LARGEST_ARRAY 0x1p31
#define EACH(i, count) for (size_t i = 0; i < (count); i++)

/* ---- The state of the program, and how a function says why it failed. ----------------------- */

typedef void *Handle; /* whatever a runtime lets us hold */
typedef struct { const char *name; size_t size; bool real; int ort, litert; } Type;
typedef struct {
    char *name;
    const Type *type;
    size_t rank, bytes, room; /* room: what data has at least */
    int64_t shape[MAX_RANK];
    char *data;
} Tensor;
typedef struct { Tensor *items; size_t count; } Tensors;
typedef struct Runtime Runtime;
typedef struct {
    FILE *in, *out;
    char *line, fault[1024];
    const char *header;            /* the command, in the line */
    Tensors arrays, sample, first; /* the command's; the timed input; its first outputs */
    char *backend, *file, *library, version[64];
    int threads;
    const Runtime *runtime; /* NULL while no file is open, as all that follows */
    Handle loaded, env, model, options, session, allocator, signature, tensors[2][MAX_ENDS];
    void (*const *table)(void);               /* ONNX Runtime's entries */
    int (*lock)(Handle, void **, int);        /* those of LiteRT's that are called in the clock */
    int (*unlock)(Handle);
    int (*execute)(Handle, size_t, size_t, Handle *, size_t, Handle *);
    Tensors ends[2];               /* the file's inputs, and its outputs with their last values */
    const Tensor *given[MAX_ENDS]; /* the inputs that are bound */
} Runner;
struct Runtime {
    const char *backend, *receipt;
    bool (*open)(Runner *, size_t count[2]);
    bool (*describe)(Runner *, int side, size_t at, Tensor *);
    bool (*bind)(Runner *, size_t at); /* make room for an input, or refuse it */
    bool (*copy)(Runner *, int side, size_t at);
    bool (*execute)(Runner *);
    void (*close)(Runner *);
};

__attribute__((format(printf, 2, 3))) static bool fail(Runner *r, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(r->fault, sizeof r->fault, format, values);
    va_end(values);
    return false;
}

/* A process that gets no memory has nothing left to measure; the host finds why in its log. */
static void *must(void *got) {
    if (got) return got;
    fputs("t2e-runner: out of memory\n", stderr);
    exit(70);
}

/* ---- JSON, read where it lies: a value is a pointer into a line that was checked as a whole. - */

static const char *blank(const char *at) { return at + strspn(at, " \t\r\n"); }

static const char *past_string(const char *at) {
    for (at++; *at != '"'; at++)
        if (*at == '\0' || (*at == '\\' && *++at == '\0')) return NULL;
    return at + 1;
}

/* Where the value ends that begins here; NULL when it does not end or is nested too deep. */
static const char *past(const char *at, int depth) {
    if (*(at = blank(at)) == '"') return past_string(at);
    if (*at != '{' && *at != '[') {
        size_t size = strspn(at, "+-.0123456789EINaefilnrstuy"); /* numbers, true, null, NaN ... */
        return size ? at + size : NULL;
    }
    char close = *at == '{' ? '}' : ']';
    for (at = blank(at + 1); *at != close; at = blank(at)) {
        if (depth == DEEPEST || !(at = past(at, depth + 1))) return NULL;
        if (*(at = blank(at)) == ',' || *at == ':') at++;
        else if (*at != close) return NULL;
    }
    return at + 1;
}

/* The value after this one, NULL after the last. */
static const char *next(const char *value) {
    const char *end = past(value, 0), *at = end ? blank(end) : "";
    return *at == ',' ? blank(at + 1) : NULL;
}

static const char *first(const char *list) {
    const char *at = list && *list == '[' ? blank(list + 1) : "]";
    return *at == ']' ? NULL : at;
}

static bool is_object(const char *line) {
    const char *end = past(line, 0);
    return end && *blank(line) == '{' && *blank(end) == '\0';
}

/* The value of a key; of one that stands there twice the last, as for Python. */
static const char *get(const char *object, const char *key) {
    const char *at = *(object = blank(object)) == '{' ? blank(object + 1) : NULL, *value;
    const char *found = NULL;
    for (size_t size = strlen(key); at && *at == '"'; at = next(value)) {
        const char *end = past_string(at), *colon = blank(end);
        if (*colon != ':') return NULL;
        value = blank(colon + 1);
        if ((size_t)(end - at) == size + 2 && memcmp(at + 1, key, size) == 0) found = value;
    }
    return found;
}

static char *encode_utf8(char *to, unsigned code) {
    static const unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *to++ = (char)(lead[more] | code >> 6 * more);
    while (more--) *to++ = (char)(0x80 | (code >> 6 * more & 0x3F));
    return to;
}

static bool is_unit(const char *at, unsigned *code) {
    *code = 0;
    if (*at++ != 'u') return false;
    for (int i = 0; i < 4; i++, at++) {
        if (!isxdigit((unsigned char)*at)) return false;
        *code = *code << 4 | (unsigned)(*at <= '9' ? *at - '0' : (*at | 32) - 'a' + 10);
    }
    return true;
}

/* A string's text, the caller's to free; NULL when the value is no string. */
static char *text_of(const char *value) {
    static const char letters[] = "bfnrt", meant[] = "\b\f\n\r\t";
    if (!value || *value != '"') return NULL;
    char *text = must(malloc((size_t)(past_string(value) - value))), *to = text;
    for (const char *at = value + 1; *at != '"'; at++) {
        unsigned code, low;
        if (*at != '\\') *to++ = *at;
        else if (is_unit(++at, &code)) {
            at += 4; /* a character beyond 16 bits comes in two halves */
            if (code >> 10 == 54 && at[1] == '\\' && is_unit(at + 2, &low) && low >> 10 == 55) {
                code = 0x10000 + ((code & 0x3FF) << 10 | (low & 0x3FF));
                at += 6;
            }
            to = encode_utf8(to, code);
        } else {
            const char *letter = strchr(letters, *at);
            *to++ = letter ? meant[letter - letters] : *at;
        }
    }
    *to = '\0';
    return text;
}

static bool get_number(Runner *r, const char *key, double *found) {
    const char *value = get(r->header, key);
    char *end = (char *)value;
    *found = value ? strtod(value, &end) : -1;
    return (end != value && *found >= 0 && *found <= 1e15) || fail(r, "no usable %s is given", key);
}

static bool get_text(Runner *r, const char *key, char **found) {
    free(*found);
    return (*found = text_of(get(r->header, key))) || fail(r, "no %s is given", key);
}

static void put_string(FILE *out, const char *string) {
    for (putc('"', out); *string; string++)
        if (*string == '"' || *string == '\\') fprintf(out, "\\%c", *string);
        else if ((unsigned char)*string < 0x20) fprintf(out, "\\u%04x", (unsigned)*string);
        else putc(*string, out);
    putc('"', out);
}

/* ---- Tensors, and how frames carry them. ----------------------------------------------------- */

static const Type TYPES[] = { /* the last two: the runtimes' numbers for it */
    {"float32", 4, true, 1, 1},   {"float16", 2, true, 10, 10}, {"float64", 8, true, 11, 11},
    {"int8", 1, false, 3, 9},     {"uint8", 1, false, 2, 3},    {"int16", 2, false, 5, 7},
    {"uint16", 2, false, 4, 17},  {"int32", 4, false, 6, 2},    {"uint32", 4, false, 12, 16},
    {"int64", 8, false, 7, 4},    {"uint64", 8, false, 13, 13}, {"bool", 1, false, 9, 6}};
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

static Tensors make(size_t count) {
    return (Tensors){must(calloc(count + 1, sizeof(Tensor))), count};
}

static void drop(Tensors *tensors) {
    EACH(i, tensors->count) {
        free(tensors->items[i].name);
        free(tensors->items[i].data);
    }
    free(tensors->items);
    *tensors = (Tensors){0};
}

/* Gives a tensor the bytes that it is described to have; false when none of ours has that many. */
static bool allocate(Tensor *tensor) {
    if (!tensor->type || tensor->rank > MAX_RANK) return false;
    double bytes = (double)tensor->type->size;
    EACH(i, tensor->rank) { /* an axis as long is refused beside one of 0, too */
        double size = (double)tensor->shape[i];
        bytes *= size < 0 || size > LARGEST_ARRAY ? INFINITY : size;
    }
    if (!(bytes <= LARGEST_ARRAY)) return false;
    tensor->bytes = (size_t)bytes;
    if (tensor->data && tensor->room >= tensor->bytes) return true;
    free(tensor->data);
    tensor->room = (tensor->bytes / 64 + 1) * 64;
    tensor->data = must(aligned_alloc(64, tensor->room));
    return true;
}

/* Copies an array, which may lie nowhere when it is empty. */
static void copy_bytes(void *to, const void *from, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
}

static bool parse_spec(const char *spec, Tensor *tensor) {
    char *type = text_of(get(spec, "dtype"));
    tensor->name = text_of(get(spec, "name"));
    EACH(i, TYPE_COUNT)
        if (type && strcmp(TYPES[i].name, type) == 0) tensor->type = &TYPES[i];
    free(type);
    const char *shape = get(spec, "shape");
    for (const char *at = first(shape); at; at = next(at)) {
        char *end;
        double size = strtod(at, &end);
        bool whole = end != at && size >= 0 && size <= LARGEST_ARRAY && fmod(size, 1) == 0;
        if (!whole || tensor->rank == MAX_RANK) return false;
        tensor->shape[tensor->rank++] = (int64_t)size;
    }
    return tensor->name && shape && *shape == '[' && allocate(tensor);
}

/* Reads the arrays that the header announces. False: nobody knows where the next frame begins. */
static bool read_arrays(Runner *r, const char *header, FILE *in) {
    const char *list = get(header, "arrays");
    size_t count = 0;
    for (const char *spec = first(list); spec; spec = next(spec)) count++;
    Tensor *tensor = (r->arrays = make(count)).items;
    for (const char *spec = first(list); spec; spec = next(spec))
        if (!parse_spec(spec, tensor++)) return fail(r, "the frame holds an array that is none");
    for (tensor = r->arrays.items; tensor < r->arrays.items + count; tensor++)
        if (fread(tensor->data, 1, tensor->bytes, in) < tensor->bytes)
            return fail(r, "the frame ends in the middle of an array");
    return true;
}

static void put_specs(FILE *out, const Tensors *tensors) {
    EACH(i, tensors->count) {
        const Tensor *tensor = &tensors->items[i];
        fputs(i ? ", {\"name\": " : "{\"name\": ", out);
        put_string(out, tensor->name);
        fprintf(out, ", \"dtype\": \"%s\", \"shape\": [", tensor->type->name);
        EACH(axis, tensor->rank)
            fprintf(out, "%s%lld", axis ? ", " : "", (long long)tensor->shape[axis]);
        fputs("]}", out);
    }
}

static double half(uint16_t bits) {
    double sign = bits & 0x8000 ? -1 : 1, part = bits & 1023;
    int exponent = bits >> 10 & 31;
    if (exponent == 31) return part > 0 ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + part, exponent - 25) : ldexp(part, -24));
}

static double real_at(const Tensor *tensor, size_t at) {
    const void *data = tensor->data;
    if (tensor->type->size == 2) return half(((const uint16_t *)data)[at]);
    return tensor->type->size == 4 ? (double)((const float *)data)[at] : ((const double *)data)[at];
}

static size_t reals(const Tensor *tensor) {
    return tensor->type->real ? tensor->bytes / tensor->type->size : 0;
}

static bool all_finite(const Tensors *tensors) {
    EACH(i, tensors->count)
        EACH(at, reals(&tensors->items[i]))
            if (!isfinite(real_at(&tensors->items[i], at))) return false;
    return true;
}

/* Whether two values agree up to the order of float additions (threads may sum differently). */
static bool same(const Tensor *early, const Tensor *late) {
    if (early->type != late->type || early->rank != late->rank ||
        memcmp(early->shape, late->shape, early->rank * sizeof *early->shape)) return false;
    if (memcmp(early->data, late->data, early->bytes) == 0) return true;
    double greatest = 0;
    EACH(at, reals(early)) greatest = fmax(greatest, fabs(real_at(early, at)));
    EACH(at, reals(early)) {
        double a = real_at(early, at), b = real_at(late, at);
        bool near = isfinite(b) && fabs(a - b) <= 1e-5 * greatest + 1e-4 * fabs(b);
        if (!near && a != b && !(isnan(a) && isnan(b))) return false;
    }
    return early->type->real;
}
