/* A stand-in for libnvidia-ml.so.1, so that the way through nvidia-ml-py and ctypes is run without a card.
 * It answers like an older driver: no nvmlDeviceGetTemperatureV, no nvmlDeviceGetCurrentClocksEventReasons.
 * The file named by FAKE_NVML_STATE may hold one of: hang, lost, unloaded. Built by test_gpu_pynvml.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, NO_PERMISSION = 4,
       DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, NOT_FOUND = 6, ARGUMENT_VERSION_MISMATCH = 25 };
typedef unsigned long long u64;
static int initialised;

static int state(void) {
    char word[16] = "";
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *f = path ? fopen(path, "r") : NULL;
    if (f) { if (fscanf(f, "%15s", word) != 1) word[0] = 0; fclose(f); }
    if (!strcmp(word, "hang")) for (;;) pause();
    if (!strcmp(word, "unloaded")) { initialised = 0; return DRIVER_NOT_LOADED; }
    return !strcmp(word, "lost") ? GPU_IS_LOST : OK;
}
static int session(void) { int s = state(); return s == DRIVER_NOT_LOADED || initialised ? (s == GPU_IS_LOST ? OK : s) : UNINITIALIZED; }
static int device(void) { int s = session(); return s ? s : state(); }

int nvmlInitWithFlags(unsigned flags) { int s = state(); if (s == DRIVER_NOT_LOADED) return s; initialised = 1; return OK; }
int nvmlShutdown(void) { initialised = 0; return OK; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { snprintf(v, n, "535.00"); return session(); }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return session(); }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)1; return i == 0 ? device() : 2; }
int nvmlDeviceGetUUID(void *h, char *v, unsigned n) { snprintf(v, n, "GPU-00000000-0000-4000-8000-00000000000a"); return device(); }
int nvmlDeviceGetName(void *h, char *v, unsigned n) { snprintf(v, n, "Fake GPU"); return device(); }
struct memory2 { unsigned version; u64 total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(void *h, struct memory2 *m) {
    if (m->version != (2u << 24 | sizeof *m)) return ARGUMENT_VERSION_MISMATCH;
    m->total = 16ull << 30; m->reserved = 1ull << 28; m->used = 14ull << 30; m->free = m->total - m->reserved - m->used;
    return device();
}
struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void *h, struct utilization *u) { u->gpu = 97; u->memory = 40; return device(); }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *t) { *t = 61; return device(); }
int nvmlDeviceGetPowerUsage(void *h, unsigned *p) { *p = 201500; return device(); }
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *p) { return NO_PERMISSION; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, u64 *e) { *e = 9223372036854775794ull; return device(); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, u64 *r) { *r = 0x4 | 0x8; return device(); }
int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) { return NOT_SUPPORTED; }
struct process { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; };
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, struct process *p) {
    int s = device();
    if (s) return s;
    if (!p || *n < 3) { *n = 3; return INSUFFICIENT_SIZE; }
    p[0] = (struct process){(unsigned)getpid(), 13ull << 30, ~0u, ~0u}; /* named by /proc: NVML does not know it */
    p[1] = (struct process){999, 1ull << 29, ~0u, ~0u};
    p[2] = (struct process){998, ~0ull, ~0u, ~0u}; /* memory not available */
    *n = 3;
    return OK;
}
int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned n) {
    if (pid != 999) return NOT_FOUND;
    snprintf(name, n, "/opt/tools/caf\xe9 --token=secret"); /* Latin-1: no UTF-8 */
    return OK;
}
