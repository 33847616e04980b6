/*
 * The loop that runs on the device, in C: opens one file with one runtime, runs it, times it.
 *
 * It speaks the frames of torchopt2edge/frames.py and answers as torchopt2edge/bench/runner.py
 * does. Here memory and start-up are the runtime's alone: libc is all there is besides. The
 * runtimes are loaded by path and called through their C interfaces, of which the few entries
 * that are needed are declared here. A failure is answered with error {what, type} and the loop
 * goes on; the end of stdin ends it. Linux, little-endian.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
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

static const char *get(const char *object, const char *key) {
    const char *at = *object == '{' ? blank(object + 1) : NULL, *value;
    for (size_t size = strlen(key); at && *at == '"'; at = next(value)) {
        const char *end = past_string(at), *colon = blank(end);
        if (*colon != ':') return NULL;
        value = blank(colon + 1);
        if ((size_t)(end - at) == size + 2 && memcmp(at + 1, key, size) == 0) return value;
    }
    return NULL;
}

static char *encode_utf8(char *to, unsigned code) {
    static const unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *to++ = (char)(lead[more] | code >> 6 * more);
    while (more--) *to++ = (char)(0x80 | (code >> 6 * more & 0x3F));
    return to;
}

static bool is_unit(const char *at, unsigned *code) {
    int size = 0;
    return sscanf(at, "u%4x%n", code, &size) == 1 && size == 5;
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
            if (code >> 10 == 54 && at[1] == '\\' && is_unit(at + 2, &low)) {
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
    EACH(i, tensor->rank) bytes *= tensor->shape[i] < 0 ? INFINITY : (double)tensor->shape[i];
    if (!(bytes <= LARGEST_ARRAY)) return false;
    tensor->bytes = (size_t)bytes;
    if (tensor->data && tensor->room >= tensor->bytes) return true;
    free(tensor->data);
    tensor->room = (tensor->bytes / 64 + 1) * 64;
    tensor->data = must(aligned_alloc(64, tensor->room));
    return true;
}

static bool parse_spec(const char *spec, Tensor *tensor) {
    char *type = text_of(get(spec, "dtype"));
    tensor->name = text_of(get(spec, "name"));
    EACH(i, TYPE_COUNT)
        if (type && strcmp(TYPES[i].name, type) == 0) tensor->type = &TYPES[i];
    free(type);
    for (const char *at = first(get(spec, "shape")); at; at = next(at)) {
        double size = strtod(at, NULL);
        if (tensor->rank == MAX_RANK || !(size >= 0 && size <= LARGEST_ARRAY)) return false;
        tensor->shape[tensor->rank++] = (int64_t)size;
    }
    return tensor->name && get(spec, "shape") && allocate(tensor);
}

/* Reads the arrays that the header announces. False: nobody knows where the next frame begins. */
static bool read_arrays(Runner *r) {
    const char *list = get(r->header, "arrays");
    size_t count = 0;
    for (const char *spec = first(list); spec; spec = next(spec)) count++;
    Tensor *tensor = (r->arrays = make(count)).items;
    for (const char *spec = first(list); spec; spec = next(spec))
        if (!parse_spec(spec, tensor++)) return fail(r, "the frame holds an array that is none");
    for (tensor = r->arrays.items; tensor < r->arrays.items + count; tensor++)
        if (fread(tensor->data, 1, tensor->bytes, r->in) < tensor->bytes)
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

/* ---- What Linux says of this process and of the machine. ------------------------------------- */

static int64_t clock_ns(clockid_t which) {
    struct timespec now;
    clock_gettime(which, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The beginning of a small file, "" when it cannot be read. */
static char *slurp(const char *path, char *into, size_t room) {
    FILE *file = fopen(path, "re");
    into[file ? fread(into, 1, room - 1, file) : 0] = '\0';
    if (file) fclose(file);
    return into;
}

typedef struct { double count, sum, least, most; } Readings;

/* The numbers that follow `prefix` in the files of a pattern and lie between two bounds. */
static Readings read_all(const char *pattern, const char *prefix, double low, double high) {
    Readings found = {0, 0, INFINITY, -INFINITY};
    glob_t paths;
    glob(pattern, GLOB_NOSORT, NULL, &paths);
    EACH(i, paths.gl_pathc) {
        char text[8192], *at = strstr(slurp(paths.gl_pathv[i], text, sizeof text), prefix), *end;
        double value = at ? strtod(at += strlen(prefix), &end) : 0;
        if (!at || end == at || value <= low || value >= high) continue;
        found = (Readings){found.count + 1, found.sum + value, fmin(found.least, value),
                           fmax(found.most, value)};
    }
    globfree(&paths);
    return found;
}

static Readings numbers(const char *pattern) { return read_all(pattern, "", -1, INFINITY); }
static Readings charge(void) { return numbers("/sys/class/powercap/intel-rapl:[0-9]/energy_uj"); }

static double peak_bytes(void) {
    Readings kilobytes = read_all("/proc/self/status", "\nVmHWM:", -1, INFINITY);
    return kilobytes.count ? kilobytes.sum * 1024 : -1;
}

/* Context switches against our will, of every thread so far. */
static double involuntary(void) {
    return read_all("/proc/self/task/*/status", "\nnonvoluntary_ctxt_switches:", -1, INFINITY).sum;
}

/* Ticks of all cores since boot and those that a hypervisor took; guest time is user time too. */
static bool cpu_ticks(double *ticks, double *steal) {
    char text[512], *at = slurp("/proc/stat", text, sizeof text), *end;
    *ticks = 0;
    at += strcspn(at, " ");
    for (int i = 0; i < 8; i++, at = end) {
        *ticks += *steal = strtod(at, &end);
        if (end == at) return false;
    }
    return true;
}

/* qemu-user hides itself in /proc/self/exe but not in the thread's own entry; an older one also
 * shows the host's cpuinfo to a guest of another architecture. */
static bool emulated(void) {
#if defined(__x86_64__) || defined(__i386__)
    const char *foreign = "QEMU TCG";
#else
    const char *foreign = "vendor_id";
#endif
    char path[64], program[4096] = "", cpus[65536];
    snprintf(path, sizeof path, "/proc/self/task/%d/exe", (int)getpid());
    if (readlink(path, program, sizeof program - 1) > 0 && strstr(program, "/qemu-")) return true;
    slurp("/proc/cpuinfo", cpus, sizeof cpus);
    return strstr(cpus, "QEMU TCG") || strstr(cpus, foreign);
}

static void put_sensor(FILE *out, const char *name, double there, double value) {
    if (there) fprintf(out, "\"%s\": %.12g, ", name, value);
    else fprintf(out, "\"%s\": \"unavailable\", ", name);
}

static void put_sensors(FILE *out) {
#define CORES "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/"
    Readings now = numbers(CORES "scaling_cur_freq"), load = numbers("/proc/loadavg"),
             cap = numbers(CORES "scaling_max_freq"), can = numbers(CORES "cpuinfo_max_freq"),
             rail = numbers("/sys/class/hwmon/hwmon*/power*_input"), used = charge(),
             heat = read_all("/sys/class/thermal/thermal_zone*/temp", "", 0, 150000);
    if (!heat.count) heat = read_all("/sys/class/hwmon/hwmon*/temp*_input", "", 0, 150000);
    bool known = cap.count && cap.count == can.count; /* a cap is never above what silicon can */
    fputs("\"sensors\": {", out);
    put_sensor(out, "temperature_c", heat.count, heat.most / 1000);
    put_sensor(out, "clock_mhz", now.count, now.sum / now.count / 1000);
    put_sensor(out, "clock_cap_mhz", cap.count, cap.least / 1000);
    put_sensor(out, "load", load.count, load.sum);
    put_sensor(out, "energy_j", used.count, used.sum / 1e6);
    put_sensor(out, "power_w", rail.count, rail.most / 1e6);
    fprintf(out, "\"capped\": %s}",
            !known ? "\"unavailable\"" : cap.sum < can.sum ? "true" : "false");
}

/* ---- A session: one file, open in one runtime. ----------------------------------------------- */

static void close_file(Runner *r) {
    if (r->runtime) r->runtime->close(r);
    drop(&r->ends[IN]);
    drop(&r->ends[OUT]);
    drop(&r->sample);
    drop(&r->first);
    r->runtime = NULL;
    r->env = r->model = r->options = r->session = r->allocator = r->signature = NULL;
    memset(r->tensors, 0, sizeof r->tensors);
}

static bool open_file(Runner *r) {
    size_t count[2];
    if (!r->runtime->open(r, count)) return false;
    for (int side = IN; side <= OUT; side++) {
        if (count[side] > MAX_ENDS) return fail(r, "the file has %zu such ends", count[side]);
        r->ends[side] = make(count[side]);
        EACH(at, count[side])
            if (!r->runtime->describe(r, side, at, &r->ends[side].items[at])) return false;
    }
    return true;
}

/* Takes arrays as the inputs, by name; they must live until the next binding. */
static bool bind(Runner *r, const Tensors *arrays) {
    const Tensors *inputs = &r->ends[IN];
    if (arrays->count != inputs->count)
        return fail(r, "%zu inputs are given, the file has %zu", arrays->count, inputs->count);
    EACH(i, inputs->count) {
        r->given[i] = NULL;
        EACH(j, arrays->count)
            if (strcmp(arrays->items[j].name, inputs->items[i].name) == 0)
                r->given[i] = &arrays->items[j];
        if (!r->given[i]) return fail(r, "the input '%s' is not given", inputs->items[i].name);
        if (!r->runtime->bind(r, i)) return false;
    }
    return true;
}

/* What is timed: set the inputs, run, read the outputs. */
static bool run(Runner *r) {
    EACH(at, r->ends[IN].count)
        if (!r->runtime->copy(r, IN, at)) return false;
    if (!r->runtime->execute(r)) return false;
    EACH(at, r->ends[OUT].count)
        if (!r->runtime->copy(r, OUT, at)) return false;
    return true;
}

static bool set_type(Runner *r, Tensor *tensor, int number, bool ort) {
    tensor->type = NULL;
    EACH(i, TYPE_COUNT)
        if (number == (ort ? TYPES[i].ort : TYPES[i].litert)) tensor->type = &TYPES[i];
    return allocate(tensor) || fail(r, "'%s' is of no type or size that we take", tensor->name);
}

/* ---- ONNX Runtime. Its interface is a table that only grows: an entry's place is its ABI. ---- */

typedef void (*const *Table)(void);
typedef struct { Table (*table)(uint32_t version); const char *(*version)(void); } OrtBase;
typedef const char *const *Names;
enum { ORT_API = 11, ERRORS_ONLY = 3, OPTIMIZE_ALL = 99 };
enum {
    GetErrorMessage = 2, CreateEnv = 3, CreateSession = 7, Run = 9, CreateSessionOptions = 10,
    SetSessionGraphOptimizationLevel = 23, SetIntraOpNumThreads = 24, SetInterOpNumThreads = 25,
    SessionGetInputCount = 30, SessionGetOutputCount = 31, SessionGetInputName = 36,
    SessionGetOutputName = 37, CreateTensorAsOrtValue = 48, GetTensorMutableData = 51,
    GetTensorElementType = 60, GetDimensionsCount = 61, GetDimensions = 62,
    GetTensorTypeAndShape = 65, AllocatorFree = 76, GetAllocatorWithDefaultOptions = 78,
    ReleaseEnv = 92, ReleaseStatus = 93, ReleaseSession = 95, ReleaseValue = 96,
    ReleaseTensorTypeAndShapeInfo = 99, ReleaseSessionOptions = 100, AddSessionConfigEntry = 130
};
/* Calls an entry, whose parameters stand first; true when it returned no error. */
#define ORT(entry, takes, ...) ort_good(r, ((Handle (*) takes)r->table[entry])(__VA_ARGS__))

static void ort_release(Runner *r, int entry, Handle *object) {
    if (*object) ((void (*)(Handle))r->table[entry])(*object);
    *object = NULL;
}

static bool ort_good(Runner *r, Handle status) {
    if (!status) return true;
    fail(r, "ONNX Runtime: %s", ((const char *(*)(Handle))r->table[GetErrorMessage])(status));
    ort_release(r, ReleaseStatus, &status);
    return false;
}

static bool ort_open(Runner *r, size_t count[2]) {
    const OrtBase *(*base)(void) = (const OrtBase *(*)(void))dlsym(r->loaded, "OrtGetApiBase");
    r->table = base ? base()->table(ORT_API) : NULL;
    if (!r->table) return fail(r, "%s is no ONNX Runtime that we know", r->library);
    snprintf(r->version, sizeof r->version, "%s", base()->version());
    const char *options = get(r->header, "options"), *optimize = get(r->header, "optimize");
    if (!optimize && options) optimize = get(options, "optimize"); /* as the backend's own field */
    int level = optimize && strncmp(optimize, "false", 5) == 0 ? 0 : OPTIMIZE_ALL;
    return ORT(CreateEnv, (int, const char *, Handle *), ERRORS_ONLY, "t2e", &r->env) &&
           ORT(CreateSessionOptions, (Handle *), &r->options) &&
           ORT(SetIntraOpNumThreads, (Handle, int), r->options, r->threads) &&
           ORT(SetInterOpNumThreads, (Handle, int), r->options, 1) &&
           /* a session that waits for its turn must not spin beside the one that is timed */
           ORT(AddSessionConfigEntry, (Handle, const char *, const char *), r->options,
               "session.intra_op.allow_spinning", "0") &&
           ORT(SetSessionGraphOptimizationLevel, (Handle, int), r->options, level) &&
           ORT(CreateSession, (Handle, const char *, Handle, Handle *), r->env, r->file,
               r->options, &r->session) &&
           ORT(GetAllocatorWithDefaultOptions, (Handle *), &r->allocator) &&
           ORT(SessionGetInputCount, (Handle, size_t *), r->session, &count[IN]) &&
           ORT(SessionGetOutputCount, (Handle, size_t *), r->session, &count[OUT]);
}

static bool ort_describe(Runner *r, int side, size_t at, Tensor *tensor) {
    int entry = side == IN ? SessionGetInputName : SessionGetOutputName;
    char *name = NULL;
    if (!ORT(entry, (Handle, size_t, Handle, char **), r->session, at, r->allocator, &name))
        return false;
    tensor->name = must(strdup(name));
    return ORT(AllocatorFree, (Handle, void *), r->allocator, name);
}

/* Run itself refuses a wrong type or shape, and says it better. */
static bool ort_bind(Runner *r, size_t at) {
    const Tensor *given = r->given[at];
    ort_release(r, ReleaseValue, &r->tensors[IN][at]);
    return ORT(CreateTensorAsOrtValue, (Handle, const int64_t *, size_t, int, Handle *),
               r->allocator, given->shape, given->rank, given->type->ort, &r->tensors[IN][at]);
}

/* An output's shape is asked for each time: it may depend on the values. */
static bool ort_shape(Runner *r, Handle value, Tensor *tensor) {
    Handle info = NULL;
    int type = 0;
    bool found = ORT(GetTensorTypeAndShape, (Handle, Handle *), value, &info) &&
                 ORT(GetTensorElementType, (Handle, int *), info, &type) &&
                 ORT(GetDimensionsCount, (Handle, size_t *), info, &tensor->rank) &&
                 ORT(GetDimensions, (Handle, int64_t *, size_t), info, tensor->shape,
                     tensor->rank < MAX_RANK ? tensor->rank : MAX_RANK);
    ort_release(r, ReleaseTensorTypeAndShapeInfo, &info);
    return found && set_type(r, tensor, type, true);
}

static bool ort_copy(Runner *r, int side, size_t at) {
    Tensor *output = &r->ends[OUT].items[at];
    void *data;
    if (!ORT(GetTensorMutableData, (Handle, void **), r->tensors[side][at], &data)) return false;
    if (side == IN) memcpy(data, r->given[at]->data, r->given[at]->bytes);
    else if (!ort_shape(r, r->tensors[OUT][at], output)) return false;
    else memcpy(output->data, data, output->bytes);
    if (side == OUT) ort_release(r, ReleaseValue, &r->tensors[OUT][at]);
    return true;
}

static bool ort_execute(Runner *r) {
    const char *names[2][MAX_ENDS];
    for (int side = IN; side <= OUT; side++)
        EACH(at, r->ends[side].count) names[side][at] = r->ends[side].items[at].name;
    EACH(at, r->ends[OUT].count) ort_release(r, ReleaseValue, &r->tensors[OUT][at]);
    return ORT(Run, (Handle, Handle, Names, Handle *, size_t, Names, size_t, Handle *), r->session,
               NULL, names[IN], r->tensors[IN], r->ends[IN].count, names[OUT], r->ends[OUT].count,
               r->tensors[OUT]);
}

static void ort_close(Runner *r) {
    if (!r->table) return;
    EACH(at, MAX_ENDS) {
        ort_release(r, ReleaseValue, &r->tensors[IN][at]);
        ort_release(r, ReleaseValue, &r->tensors[OUT][at]);
    }
    ort_release(r, ReleaseSession, &r->session);
    ort_release(r, ReleaseSessionOptions, &r->options);
    ort_release(r, ReleaseEnv, &r->env);
}

/* ---- LiteRT, on CPU alone: its other accelerators cost start-up and crash on older cores. ---- */

typedef struct { int type; uint32_t rank; int32_t shape[8]; uint32_t strides[8]; } Ranked;
typedef struct { int tag; struct { int type; int64_t value; } any; } Option;
_Static_assert(sizeof(Ranked) == 72, "as litert_model_types.h has it");
enum { ONLY_CPU = 1, AUTO_REGISTER = 24, ANY_INT = 2, RANK_BITS = 127, READING = 0, WRITING = 1 };
enum { NO_ENTRY = -1, NO_FILE = 500 };

static bool litert_good(Runner *r, int status, const char *name) {
    const char *why = status == NO_ENTRY  ? ": this library does not have it"
                      : status == NO_FILE ? ": there is no such .tflite"
                                          : "";
    return !status || fail(r, "LiteRT: %s failed with status %d%s", name, status, why);
}
#define ENTRY(name, takes) ((int (*) takes)dlsym(r->loaded, name))
/* Calls an entry by its name, its parameters before what they are; true when it went well. */
#define LITERT(name, takes, ...) \
    litert_good(r, ENTRY(name, takes) ? ENTRY(name, takes)(__VA_ARGS__) : NO_ENTRY, name)

/* The library does not know its version; the folder beside it, in a wheel, does. */
static void litert_version(Runner *r) {
    const char *slash = strrchr(r->library, '/'), *package = "ai_edge_litert-", *found;
    char pattern[4096];
    glob_t paths;
    snprintf(r->version, sizeof r->version, "unavailable");
    snprintf(pattern, sizeof pattern, "%.*s../%s*.dist-info",
             slash ? (int)(slash + 1 - r->library) : 0, r->library, package);
    if (glob(pattern, 0, NULL, &paths) == 0 && (found = strstr(paths.gl_pathv[0], package)))
        sscanf(found + strlen(package), "%60[0-9.]", r->version);
    globfree(&paths);
    char *last = r->version + strlen(r->version) - 1; /* the dot of .dist-info */
    if (*last == '.') *last = '\0';
}

static bool litert_open(Runner *r, size_t count[2]) {
    Option cpu = {AUTO_REGISTER, {ANY_INT, ONLY_CPU}};
    Handle threads = NULL;
    char *toml = must(malloc(32));
    snprintf(toml, 32, "num_threads = %d\n", r->threads);
    r->lock = ENTRY("LiteRtLockTensorBuffer", (Handle, void **, int));
    r->unlock = ENTRY("LiteRtUnlockTensorBuffer", (Handle));
    r->execute =
        ENTRY("LiteRtRunCompiledModel", (Handle, size_t, size_t, Handle *, size_t, Handle *));
    if (!r->lock || !r->unlock || !r->execute ||
        !LITERT("LiteRtCreateOpaqueOptions", (const char *, void *, void (*)(void *), Handle *),
                "xnnpack", toml, free, &threads)) {
        free(toml);
        return fail(r, "%s is no LiteRT that we know", r->library);
    }
    litert_version(r);
    return LITERT("LiteRtCreateOptions", (Handle *), &r->options) &&
           LITERT("LiteRtAddOpaqueOptions", (Handle, Handle), r->options, threads) &&
           LITERT("LiteRtSetOptionsHardwareAccelerators", (Handle, int), r->options, ONLY_CPU) &&
           LITERT("LiteRtCreateEnvironment", (int, const Option *, Handle *), 1, &cpu, &r->env) &&
           LITERT("LiteRtCreateModelFromFile", (Handle, const char *, Handle *), r->env, r->file,
                  &r->model) &&
           LITERT("LiteRtCreateCompiledModel", (Handle, Handle, Handle, Handle *), r->env, r->model,
                  r->options, &r->session) &&
           LITERT("LiteRtGetModelSignature", (Handle, size_t, Handle *), r->model, 0,
                  &r->signature) &&
           LITERT("LiteRtGetNumSignatureInputs", (Handle, size_t *), r->signature, &count[IN]) &&
           LITERT("LiteRtGetNumSignatureOutputs", (Handle, size_t *), r->signature, &count[OUT]);
}

/* Describes one end of the file, and makes the buffer that the runtime reads or writes. */
static bool litert_describe(Runner *r, int side, size_t at, Tensor *tensor) {
    static const char *const entries[2][3] = {
        {"LiteRtGetSignatureInputName", "LiteRtGetSignatureInputTensorByIndex",
         "LiteRtGetCompiledModelInputBufferRequirements"},
        {"LiteRtGetSignatureOutputName", "LiteRtGetSignatureOutputTensorByIndex",
         "LiteRtGetCompiledModelOutputBufferRequirements"}};
    const char *name;
    Handle end, needs;
    Ranked ranked;
    size_t packed;
    if (!LITERT(entries[side][0], (Handle, size_t, const char **), r->signature, at, &name) ||
        !LITERT(entries[side][1], (Handle, size_t, Handle *), r->signature, at, &end) ||
        !LITERT(entries[side][2], (Handle, size_t, size_t, Handle *), r->session, 0, at, &needs) ||
        !LITERT("LiteRtGetRankedTensorType", (Handle, Ranked *), end, &ranked)) return false;
    tensor->name = must(strdup(name));
    tensor->rank = ranked.rank & RANK_BITS;
    EACH(axis, tensor->rank < 8 ? tensor->rank : 8) tensor->shape[axis] = ranked.shape[axis];
    return set_type(r, tensor, ranked.type, false) &&
           LITERT("LiteRtCreateManagedTensorBufferFromRequirements",
                  (Handle, const Ranked *, Handle, Handle *), r->env, &ranked, needs,
                  &r->tensors[side][at]) &&
           LITERT("LiteRtGetTensorBufferPackedSize", (Handle, size_t *), r->tensors[side][at],
                  &packed) &&
           (packed == tensor->bytes || fail(r, "'%s' has %zu bytes, its buffer %zu", name,
                                            tensor->bytes, packed));
}

static bool litert_bind(Runner *r, size_t at) {
    const Tensor *given = r->given[at], *taken = &r->ends[IN].items[at];
    if (given->type == taken->type && given->rank == taken->rank &&
        !memcmp(given->shape, taken->shape, given->rank * sizeof *given->shape)) return true;
    return fail(r, "'%s' is not given in the file's own type and shape", taken->name);
}

static bool litert_copy(Runner *r, int side, size_t at) {
    Handle buffer = r->tensors[side][at];
    const Tensor *output = &r->ends[OUT].items[at];
    void *data;
    if (!litert_good(r, r->lock(buffer, &data, side == IN ? WRITING : READING), "lock"))
        return false;
    if (side == IN) memcpy(data, r->given[at]->data, r->given[at]->bytes);
    else memcpy(output->data, data, output->bytes);
    return litert_good(r, r->unlock(buffer), "unlock");
}

static bool litert_execute(Runner *r) {
    return litert_good(r, r->execute(r->session, 0, r->ends[IN].count, r->tensors[IN],
                                     r->ends[OUT].count, r->tensors[OUT]), "run");
}

static void litert_destroy(Runner *r, const char *name, Handle object) {
    void (*entry)(Handle) = (void (*)(Handle))dlsym(r->loaded, name);
    if (object && entry) entry(object);
}

static void litert_close(Runner *r) {
    EACH(at, MAX_ENDS) {
        litert_destroy(r, "LiteRtDestroyTensorBuffer", r->tensors[IN][at]);
        litert_destroy(r, "LiteRtDestroyTensorBuffer", r->tensors[OUT][at]);
    }
    litert_destroy(r, "LiteRtDestroyCompiledModel", r->session);
    litert_destroy(r, "LiteRtDestroyOptions", r->options);
    litert_destroy(r, "LiteRtDestroyModel", r->model);
    litert_destroy(r, "LiteRtDestroyEnvironment", r->env);
}

/* ---- The commands. Each does all that can fail before it begins its answer. ------------------ */

static const Runtime RUNTIMES[] = {
    {"ort", "\"runtime\": \"onnxruntime\", \"provider\": \"CPUExecutionProvider\"", ort_open,
     ort_describe, ort_bind, ort_copy, ort_execute, ort_close},
    {"litert", "\"runtime\": \"litert\", \"delegate\": \"XNNPACK\"", litert_open, litert_describe,
     litert_bind, litert_copy, litert_execute, litert_close}};

static const char *yes(bool it_is) { return it_is ? "true" : "false"; }

static void put_receipt(Runner *r, double bytes_before) {
    struct timespec tick;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof cores, &cores);
    clock_getres(CLOCK_MONOTONIC, &tick);
    fprintf(r->out, "\"receipt\": {%s, \"runtime_version\": ", r->runtime->receipt);
    put_string(r->out, r->version);
    fprintf(r->out, ", \"runner\": \"native\", \"runner_version\": %d", RUNNER_VERSION);
    fputs(", \"compiler\": ", r->out);
    put_string(r->out, __VERSION__);
    fprintf(r->out, ", \"threads\": %d, \"affinity\": [", r->threads);
    for (size_t core = 0, count = 0; core < CPU_SETSIZE; core++)
        if (CPU_ISSET(core, &cores)) fprintf(r->out, "%s%zu", count++ ? ", " : "", core);
    fputs("], \"spinning\": false, \"denormals\": \"kept\", \"arena\": true, ", r->out);
    fprintf(r->out, "\"emulated\": %s, \"bytes_before_import\": %.0f, ", yes(emulated()),
            bytes_before);
    fprintf(r->out, "\"timer_resolution_ns\": %.0f}",
            (double)tick.tv_sec * 1e9 + (double)tick.tv_nsec);
}

static bool do_open(Runner *r) {
    double threads;
    close_file(r);
    if (!get_text(r, "backend", &r->backend) || !get_text(r, "file", &r->file) ||
        !get_text(r, "library", &r->library) || !get_number(r, "threads", &threads)) return false;
    r->threads = (int)fmin(threads, 4096);
    const Runtime *runtime = RUNTIMES;
    while (runtime < RUNTIMES + 2 && strcmp(runtime->backend, r->backend)) runtime++;
    if (runtime == RUNTIMES + 2) return fail(r, "the runner knows no backend '%s'", r->backend);
    double bytes_before = peak_bytes();
    int64_t start = clock_ns(CLOCK_MONOTONIC);
    r->loaded = dlopen(r->library, RTLD_NOW | RTLD_LOCAL); /* for good: unloading them is unsafe */
    if (!r->loaded) return fail(r, "the library cannot be loaded: %s", dlerror());
    int64_t loaded = clock_ns(CLOCK_MONOTONIC);
    r->runtime = runtime;
    if (!open_file(r)) {
        close_file(r);
        return false;
    }
    int64_t opened = clock_ns(CLOCK_MONOTONIC);
    fprintf(r->out, "{\"event\": \"opened\", \"library_ms\": %.6f, \"load_ms\": %.6f, ",
            (double)(loaded - start) / 1e6, (double)(opened - loaded) / 1e6);
    put_receipt(r, bytes_before);
    fputs("}\n", r->out);
    return true;
}

static bool ready(Runner *r) { return r->runtime || fail(r, "no file was opened yet"); }

static bool do_call(Runner *r) {
    if (!ready(r) || !bind(r, &r->arrays) || !run(r)) return false;
    fputs("{\"event\": \"called\", \"arrays\": [", r->out);
    put_specs(r->out, &r->ends[OUT]);
    fputs("]}\n", r->out);
    EACH(i, r->ends[OUT].count)
        fwrite(r->ends[OUT].items[i].data, 1, r->ends[OUT].items[i].bytes, r->out);
    return true;
}

/* Keeps what the first inference gave. */
static void keep(Runner *r) {
    r->first = make(r->ends[OUT].count);
    EACH(i, r->first.count) {
        Tensor *kept = &r->first.items[i];
        *kept = r->ends[OUT].items[i];
        kept->name = must(strdup(kept->name));
        kept->data = NULL;
        allocate(kept);
        memcpy(kept->data, r->ends[OUT].items[i].data, kept->bytes);
    }
}

static bool do_load(Runner *r) {
    drop(&r->sample);
    drop(&r->first);
    if (!ready(r) || !bind(r, &r->arrays)) return false;
    int64_t begin = clock_ns(CLOCK_MONOTONIC);
    if (!run(r)) return false;
    double first_ms = (double)(clock_ns(CLOCK_MONOTONIC) - begin) / 1e6;
    keep(r);
    r->sample = r->arrays;
    r->arrays = (Tensors){0};
    fprintf(r->out, "{\"event\": \"loaded\", \"first_ms\": %.6f, \"finite\": %s}\n", first_ms,
            yes(all_finite(&r->first)));
    return true;
}

/* Nanoseconds per inference, *count of them, the caller's to free; NULL when one failed. */
static int64_t *time_round(Runner *r, double least, double most, double seconds, size_t *count) {
    size_t room = 4096 + (size_t)fmin(least, 1e6);
    int64_t *samples = must(malloc(room * sizeof *samples)), end;
    int64_t start = clock_ns(CLOCK_MONOTONIC);
    *count = 0;
    do {
        if (*count == room) samples = must(realloc(samples, (room *= 2) * sizeof *samples));
        int64_t begin = clock_ns(CLOCK_MONOTONIC);
        if (!run(r)) {
            free(samples);
            return NULL;
        }
        end = clock_ns(CLOCK_MONOTONIC);
        samples[(*count)++] = end - begin;
    } while ((double)*count < most &&
             ((double)*count < least || (double)(end - start) < seconds * 1e9));
    return samples;
}

static bool do_round(Runner *r) {
    double least, most, seconds, ticks[2], steal[2];
    size_t count;
    if (!ready(r) || !get_number(r, "min_samples", &least) ||
        !get_number(r, "max_samples", &most) || !get_number(r, "seconds", &seconds)) return false;
    if (!r->first.count) return fail(r, "a round came before its load");
    if (!bind(r, &r->sample)) return false;
    bool counted = cpu_ticks(&ticks[0], &steal[0]);
    Readings before = charge();
    double switches = involuntary();
    int64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID), begin = clock_ns(CLOCK_MONOTONIC);
    int64_t *samples = time_round(r, least, most, seconds, &count);
    if (!samples) return false;
    int64_t wall = clock_ns(CLOCK_MONOTONIC) - begin;
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    switches = involuntary() - switches;
    Readings after = charge();
    bool stable = true;
    EACH(i, r->first.count) stable = stable && same(&r->first.items[i], &r->ends[OUT].items[i]);
    fputs("{\"event\": \"round\", \"latency_ns\": [", r->out);
    EACH(i, count) fprintf(r->out, "%s%lld", i ? ", " : "", (long long)samples[i]);
    free(samples);
    fprintf(r->out, "], \"begin_ns\": %lld, \"wall_ns\": %lld, \"cpu_ns\": %lld, ",
            (long long)begin, (long long)wall, (long long)cpu);
    fprintf(r->out, "\"involuntary\": %.0f, \"stable\": %s, \"finite\": %s, ", switches,
            yes(stable), yes(all_finite(&r->ends[OUT])));
    if (counted && cpu_ticks(&ticks[1], &steal[1]))
        fprintf(r->out, "\"steal\": %.0f, \"ticks\": %.0f, ", steal[1] - steal[0],
                ticks[1] - ticks[0]);
    if (before.count && after.sum >= before.sum) /* the counters wrap around */
        fprintf(r->out, "\"joules\": %.6f, ", (after.sum - before.sum) / 1e6);
    fprintf(r->out, "\"vm_hwm_bytes\": %.0f, ", peak_bytes());
    put_sensors(r->out);
    fputs("}\n", r->out);
    return true;
}

static bool do_sense(Runner *r) {
    fputs("{\"event\": \"sensed\", ", r->out);
    put_sensors(r->out);
    fputs("}\n", r->out);
    return true;
}

static bool do_stop(Runner *r) {
    fprintf(r->out, "{\"event\": \"stopped\", \"vm_hwm_bytes\": %.0f}\n", peak_bytes());
    return true;
}

/* ---- The loop. ------------------------------------------------------------------------------- */

typedef struct { const char *name; bool (*carry_out)(Runner *); } Command;
static const Command COMMANDS[] = {{"open", do_open},   {"call", do_call},   {"load", do_load},
                                   {"round", do_round}, {"sense", do_sense}, {"stop", do_stop}};

/* Reads a line; one that is too long is read past, and left empty. False at the end of stdin. */
static bool read_line(Runner *r) {
    size_t size = 0;
    int next;
    while ((next = getc(r->in)) != EOF && next != '\n')
        if (size < LONGEST_LINE) r->line[size++] = (char)next;
    r->line[size < LONGEST_LINE ? size : 0] = '\0';
    return next != EOF;
}

static bool carry_out(Runner *r) {
    char *name = text_of(get(r->header, "cmd"));
    bool done = false, known = false;
    EACH(i, sizeof COMMANDS / sizeof *COMMANDS)
        if (name && strcmp(name, COMMANDS[i].name) == 0) {
            known = true;
            done = COMMANDS[i].carry_out(r);
        }
    if (!known) fail(r, "the runner knows no command '%s'", name ? name : "");
    free(name);
    return done;
}

/* Reads what follows the line, carries the command out and answers. False after the last one. */
static bool answer(Runner *r) {
    const char *end = past(r->header = blank(r->line), 0);
    bool sound = *r->header == '{' && end && *blank(end) == '\0';
    bool whole = !sound || read_arrays(r);
    bool done = sound && whole && carry_out(r);
    if (!sound) fail(r, "the stream is not made of frames: a line is no JSON object");
    if (!done) {
        for (char *at = r->fault; *at; at++) /* who knows in what letters a library speaks */
            if ((unsigned char)*at > 126) *at = '?';
        fputs("{\"event\": \"error\", \"type\": \"NativeError\", \"what\": ", r->out);
        put_string(r->out, r->fault);
        fputs("}\n", r->out);
    }
    char *name = sound ? text_of(get(r->header, "cmd")) : NULL;
    bool last = !whole || (name && strcmp(name, "stop") == 0);
    free(name);
    drop(&r->arrays);
    return fflush(r->out) == 0 && !last;
}

int main(void) {
    Runner *r = must(calloc(1, sizeof *r));
    r->in = must(fdopen(dup(STDIN_FILENO), "rb"));
    r->out = must(fdopen(dup(STDOUT_FILENO), "wb"));
    r->line = must(malloc(LONGEST_LINE + 1));
    dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO); /* native libraries print there */
    setenv("ORT_DISABLE_TELEMETRY", "1", 0); /* ONNX Runtime reports every start otherwise */
    while (read_line(r) && answer(r)) continue;
    close_file(r);
    free(r->backend);
    free(r->file);
    free(r->library);
    free(r->line);
    fclose(r->in);
    fclose(r->out);
    free(r);
    return 0;
}
