/*
 * The least that can time a file: open it, and run it in a loop as often as is asked.
 *
 *     bare ort|litert LIBRARY FILE OUTPUTS
 *
 * It knows the nets of benchmarks/nets.py: one float input 1 x 3 x 16 x 16 "x" (1 x 16 x 16 x 3 in
 * a .tflite), one float output "y" of OUTPUTS values. On stdin: the input, then any number of
 * requests {int64 samples, double seconds}; each is over when both are reached and is answered on
 * stdout by its count, that many int64 nanoseconds and the last output. What is timed: set the
 * input, run, read the output. Nothing is checked: whatever fails ends in a crash or a short read.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void *Any;
enum { CHANNELS = 3, SIZE = 16, VALUES = CHANNELS * SIZE * SIZE, MOST = 1 << 22 };

static float sample[VALUES], result[4096];
static size_t outputs;

/* ONNX Runtime: the entries of its table, by their places, and what it is called with. */
enum {
    CreateEnv = 3, CreateSession = 7, Run = 9, CreateSessionOptions = 10, SetIntraOpThreads = 24,
    CreateTensor = 48, GetTensorData = 51, GetDefaultAllocator = 78, ReleaseValue = 96
};
typedef struct { void (*const *(*table)(uint32_t))(void); const char *(*version)(void); } Base;
static void (*const *table)(void);
static Any session, given;
#define ORT(entry, takes, ...) ((Any (*) takes)table[entry])(__VA_ARGS__)

static void open_ort(Any library, const char *file) {
    const int64_t shape[] = {1, CHANNELS, SIZE, SIZE};
    Any env, options, allocator;
    table = ((const Base *(*)(void))dlsym(library, "OrtGetApiBase"))()->table(11);
    ORT(CreateEnv, (int, const char *, Any *), 3, "bare", &env);
    ORT(CreateSessionOptions, (Any *), &options);
    ORT(SetIntraOpThreads, (Any, int), options, 1);
    ORT(CreateSession, (Any, const char *, Any, Any *), env, file, options, &session);
    ORT(GetDefaultAllocator, (Any *), &allocator);
    ORT(CreateTensor, (Any, const int64_t *, size_t, int, Any *), allocator, shape, 4, 1, &given);
}

static void run_ort(void) {
    static const char *const names[] = {"x", "y"};
    Any output = NULL, data;
    ORT(GetTensorData, (Any, Any *), given, &data);
    memcpy(data, sample, sizeof sample);
    ORT(Run, (Any, Any, const char *const *, Any *, size_t, const char *const *, size_t, Any *),
        session, NULL, names, &given, 1, names + 1, 1, &output);
    ORT(GetTensorData, (Any, Any *), output, &data);
    memcpy(result, data, outputs * sizeof *result);
    ((void (*)(Any))table[ReleaseValue])(output);
}

/* LiteRT: its entries by their names; on CPU, which has one thread unless told otherwise. */
typedef struct { int type; uint32_t rank; int32_t shape[8]; uint32_t strides[8]; } Ranked;
typedef struct { int tag; struct { int type; int64_t value; } any; } Option;
static Any ends[2];
static int (*lock)(Any, Any *, int), (*unlock)(Any);
static int (*execute)(Any, size_t, size_t, Any *, size_t, Any *);
#define LITERT(name, takes, ...) ((int (*) takes)dlsym(library, "LiteRt" name))(__VA_ARGS__)

static void open_end(Any library, Any env, Any signature, int out) {
    static const char *const tensors[] = {"LiteRtGetSignatureInputTensorByIndex",
                                          "LiteRtGetSignatureOutputTensorByIndex"};
    static const char *const buffers[] = {"LiteRtGetCompiledModelInputBufferRequirements",
                                          "LiteRtGetCompiledModelOutputBufferRequirements"};
    Any tensor, needs;
    Ranked ranked;
    ((int (*)(Any, size_t, Any *))dlsym(library, tensors[out]))(signature, 0, &tensor);
    ((int (*)(Any, size_t, size_t, Any *))dlsym(library, buffers[out]))(session, 0, 0, &needs);
    LITERT("GetRankedTensorType", (Any, Ranked *), tensor, &ranked);
    LITERT("CreateManagedTensorBufferFromRequirements", (Any, const Ranked *, Any, Any *), env,
           &ranked, needs, &ends[out]);
}

static void open_litert(Any library, const char *file) {
    const Option cpu = {24, {2, 1}}; /* register accelerators by themselves: the CPU's alone */
    Any env, options, model, signature;
    lock = (int (*)(Any, Any *, int))dlsym(library, "LiteRtLockTensorBuffer");
    unlock = (int (*)(Any))dlsym(library, "LiteRtUnlockTensorBuffer");
    execute = (int (*)(Any, size_t, size_t, Any *, size_t, Any *))dlsym(
        library, "LiteRtRunCompiledModel");
    LITERT("CreateEnvironment", (int, const Option *, Any *), 1, &cpu, &env);
    LITERT("CreateOptions", (Any *), &options);
    LITERT("SetOptionsHardwareAccelerators", (Any, int), options, 1);
    LITERT("CreateModelFromFile", (Any, const char *, Any *), env, file, &model);
    LITERT("CreateCompiledModel", (Any, Any, Any, Any *), env, model, options, &session);
    LITERT("GetModelSignature", (Any, size_t, Any *), model, 0, &signature);
    open_end(library, env, signature, 0);
    open_end(library, env, signature, 1);
}

static void run_litert(void) {
    Any data;
    lock(ends[0], &data, 1);
    memcpy(data, sample, sizeof sample);
    unlock(ends[0]);
    execute(session, 0, 1, &ends[0], 1, &ends[1]);
    lock(ends[1], &data, 0);
    memcpy(result, data, outputs * sizeof *result);
    unlock(ends[1]);
}

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

int main(int count, char **words) {
    static int64_t taken[MOST];
    struct { int64_t samples; double seconds; } wanted;
    int ort = count == 5 && strcmp(words[1], "ort") == 0;
    Any library = dlopen(words[2], RTLD_NOW | RTLD_LOCAL);
    outputs = strtoul(words[4], NULL, 10);
    (ort ? open_ort : open_litert)(library, words[3]);
    void (*run)(void) = ort ? run_ort : run_litert;
    fread(sample, sizeof sample, 1, stdin);
    while (fread(&wanted, sizeof wanted, 1, stdin) == 1) {
        int64_t samples = 0, start = now(), begin, end;
        do {
            begin = now();
            run();
            end = now();
            taken[samples++] = end - begin;
        } while (samples < MOST && (samples < wanted.samples ||
                                    (double)(end - start) < wanted.seconds * 1e9));
        fwrite(&samples, sizeof samples, 1, stdout);
        fwrite(taken, sizeof *taken, (size_t)samples, stdout);
        fwrite(result, sizeof *result, outputs, stdout);
        fflush(stdout);
    }
    return 0;
}
