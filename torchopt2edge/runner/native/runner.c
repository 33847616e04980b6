/*
 * The loop that runs on the device, in C: opens one file with one runtime, runs it, times it.
 *
 * It speaks the frames of torchopt2edge/runner/frames.py and answers as torchopt2edge/runner/runner.py
 * does. Here memory and start-up are the runtime's alone: libc is all there is besides. The
 * runtimes are loaded by path and called through their C interfaces, of which the few entries
 * that are needed are declared here. A failure is answered with error {what, type} and the loop
 * goes on; the end of stdin ends it. Linux, little-endian.
 */
#include "litert.h"
#include "machine.h"
#include "onnxruntime.h"

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

/* Takes the arrays of a file that holds one frame, where the command names one. */
static bool fetch(Runner *r) {
    char *path = text_of(get(r->header, "file")), *line = NULL;
    size_t room = 0;
    if (!path) return true;
    FILE *file = fopen(path, "re");
    bool sound = file ? getline(&line, &room, file) > 0 && is_object(line)
                      : fail(r, "%s cannot be read: %s", path, strerror(errno));
    if (file && !sound) fail(r, "%s holds no frame", path);
    drop(&r->arrays);
    sound = sound && read_arrays(r, line, file);
    if (file) fclose(file);
    free(line);
    free(path);
    return sound;
}

/* Makes of each array the first of so many pieces along its first axis. */
static bool cut(Runner *r, double pieces) {
    if (pieces == 1) return true;
    if (!r->arrays.count) return fail(r, "nothing is given to be cut into %.17g pieces", pieces);
    EACH(i, r->arrays.count) {
        Tensor *one = &r->arrays.items[i];
        if (pieces < 1 || fmod(pieces, 1) != 0 || !one->rank || !one->shape[0] ||
            fmod((double)one->shape[0], pieces) != 0)
            return fail(r, "'%s' is not made of %.17g pieces", one->name, pieces);
        one->shape[0] /= (int64_t)pieces;
        one->bytes /= (size_t)pieces;
    }
    return true;
}

/* Keeps what the last inference gave, as one of so many pieces; the first makes the room. */
static bool keep(Runner *r, Tensors *whole, size_t at, size_t pieces) {
    if (at == 0) *whole = make(r->ends[OUT].count);
    EACH(i, whole->count) {
        const Tensor *from = &r->ends[OUT].items[i];
        Tensor *kept = &whole->items[i];
        if (at == 0) {
            *kept = *from;
            kept->name = must(strdup(from->name));
            kept->data = NULL;
            if (pieces > 1) kept->shape[0] *= (int64_t)pieces;
        }
        if ((pieces > 1 && !from->rank) || !allocate(kept) || kept->bytes != pieces * from->bytes)
            return fail(r, "the pieces of '%s' make no whole", from->name);
        memcpy(kept->data + at * from->bytes, from->data, from->bytes);
    }
    return true;
}

static bool do_call(Runner *r) {
    double pieces = 1;
    Tensors whole = {0};
    if (!ready(r) || !fetch(r) ||
        (get(r->header, "pieces") && !get_number(r, "pieces", &pieces)) || !cut(r, pieces) ||
        !bind(r, &r->arrays)) return false;
    size_t at = 0;
    bool done = true;
    for (; done && (double)at < pieces; at++) {
        done = run(r) && keep(r, &whole, at, (size_t)pieces);
        EACH(i, r->arrays.count) r->arrays.items[i].data += r->arrays.items[i].bytes;
    }
    EACH(i, r->arrays.count) r->arrays.items[i].data -= at * r->arrays.items[i].bytes;
    if (done) {
        fputs("{\"event\": \"called\", \"arrays\": [", r->out);
        put_specs(r->out, &whole);
        fputs("]}\n", r->out);
        EACH(i, whole.count) fwrite(whole.items[i].data, 1, whole.items[i].bytes, r->out);
    }
    drop(&whole);
    return done;
}

static bool do_load(Runner *r) {
    drop(&r->sample);
    drop(&r->first);
    if (!ready(r) || !bind(r, &r->arrays)) return false;
    int64_t begin = clock_ns(CLOCK_MONOTONIC);
    if (!run(r)) return false;
    double first_ms = (double)(clock_ns(CLOCK_MONOTONIC) - begin) / 1e6;
    keep(r, &r->first, 0, 1);
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

/* Reads a line; one that is too long is read past, and left empty. False at the end of stdin.
 * A zero byte becomes another that no JSON has: the line must not end there. */
static bool read_line(Runner *r) {
    size_t size = 0;
    int next;
    while ((next = getc(r->in)) != EOF && next != '\n')
        if (size < LONGEST_LINE) r->line[size++] = next ? (char)next : '\1';
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
    bool sound = is_object(r->header = r->line);
    bool whole = !sound || read_arrays(r, r->header, r->in);
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
    /* A program that a runtime starts must not hold our pipes open beyond our end. */
    r->in = must(fdopen(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0), "rb"));
    r->out = must(fdopen(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0), "wb"));
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
