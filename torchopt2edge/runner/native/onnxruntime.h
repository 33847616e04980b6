/* ONNX Runtime. Its interface is a table that only grows: an entry's place is its ABI. */
#pragma once
#include "session.h"

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
    if (side == IN) copy_bytes(data, r->given[at]->data, r->given[at]->bytes);
    else if (!ort_shape(r, r->tensors[OUT][at], output)) return false;
    else copy_bytes(output->data, data, output->bytes);
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
