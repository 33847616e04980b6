/* What Linux says of this process and of the machine. */
#pragma once
#include "wire.h"

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
