/* A session: one file, open in one runtime. */
#pragma once
#include "wire.h"

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
    if (!count[OUT]) return fail(r, "the file has no outputs: nothing of it could be checked");
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
