/* LiteRT, on CPU alone: its other accelerators cost start-up and crash on older cores. */
#pragma once
#include "session.h"

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
    if (side == IN) copy_bytes(data, r->given[at]->data, r->given[at]->bytes);
    else copy_bytes(output->data, data, output->bytes);
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
