/* A libnvidia-ml.so.1 for machines without a GPU: the documented calls that the agent makes, answered from a file.
 *
 * The file named by FAKE_NVML holds lines "key value", read anew at each call: "gpus 2", "0.uuid GPU-0",
 * "0.errors.1.1.2 7" (GPU, corrected or uncorrected, volatile or aggregate, location), "0.rows 1 2 0 0",
 * "0.pages.1 3", "0.action 1", "0.error 15" (what every call for that GPU returns), "init 9", "hang 1".
 * What has no line is not supported. FAKE_NVML.events holds lines "GPU xid", each delivered once to a set of events.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, TIMEOUT = 10 };
typedef uintptr_t device; /* 1 + index */

static int is_open;
static long events_read;

static int find(const char *key, char *value) {
    char line[256], *path = getenv("FAKE_NVML");
    size_t length = strlen(key);
    FILE *file = path ? fopen(path, "r") : NULL;
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file))
        if (!strncmp(line, key, length) && line[length] == ' ') {
            line[strcspn(line, "\n")] = 0;
            strcpy(value, line + length + 1);
            found = 1;
        }
    if (file)
        fclose(file);
    return found;
}

static int ask(device gpu, const char *what, char *value) {
    char key[128];
    while (find("hang", value))
        usleep(10000);
    if (!is_open)
        return UNINITIALIZED;
    snprintf(key, sizeof key, "%lu.error", (unsigned long)gpu - 1);
    if (find(key, value))
        return atoi(value);
    snprintf(key, sizeof key, "%lu.%s", (unsigned long)gpu - 1, what);
    return find(key, value) ? SUCCESS : NOT_SUPPORTED;
}

static int text(device gpu, const char *what, char *out, unsigned size) {
    char value[256];
    int status = ask(gpu, what, value);
    if (status == SUCCESS)
        snprintf(out, size, "%s", value);
    return status;
}

static int number(device gpu, const char *what, unsigned long long *out) {
    char value[256];
    int status = ask(gpu, what, value);
    if (status == SUCCESS)
        *out = strtoull(value, NULL, 10);
    return status;
}

int nvmlInitWithFlags(unsigned flags) {
    char value[256];
    (void)flags;
    if (find("init", value))
        return atoi(value);
    is_open = 1;
    return SUCCESS;
}

int nvmlShutdown(void) {
    int was_open = is_open;
    is_open = 0;
    return was_open ? SUCCESS : UNINITIALIZED;
}

const char *nvmlErrorString(int status) {
    return status == 15 ? "GPU is lost" : status == 9 ? "Driver Not Loaded" : "Some Error";
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    char value[256];
    while (find("hang", value))
        usleep(10000);
    if (!is_open)
        return UNINITIALIZED;
    *count = find("gpus", value) ? atoi(value) : 0;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
    char value[256];
    int status = ask(*out = index + 1, "uuid", value);
    return status;
}

int nvmlDeviceGetUUID(device gpu, char *out, unsigned size) { return text(gpu, "uuid", out, size); }
int nvmlDeviceGetSerial(device gpu, char *out, unsigned size) { return text(gpu, "serial", out, size); }
int nvmlDeviceGetBoardPartNumber(device gpu, char *out, unsigned size) { return text(gpu, "part", out, size); }
int nvmlDeviceGetName(device gpu, char *out, unsigned size) { return text(gpu, "name", out, size); }

struct pci {
    char legacy[16];
    unsigned numbers[5];
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(device gpu, struct pci *out) {
    return text(gpu, "pci", out->bus_id, sizeof out->bus_id);
}

int nvmlDeviceGetMemoryInfo(device gpu, unsigned long long *total_free_used) {
    return number(gpu, "memory", total_free_used);
}

int nvmlDeviceGetMemoryErrorCounter(device gpu, int type, int kind, int location, unsigned long long *out) {
    char what[64];
    snprintf(what, sizeof what, "errors.%d.%d.%d", type, kind, location);
    return number(gpu, what, out);
}

int nvmlDeviceGetTotalEccErrors(device gpu, int type, int kind, unsigned long long *out) {
    char what[64];
    snprintf(what, sizeof what, "total.%d.%d", type, kind);
    return number(gpu, what, out);
}

int nvmlDeviceGetTemperature(device gpu, int sensor, unsigned *celsius) {
    unsigned long long value;
    int status = number(gpu, sensor == 0 ? "celsius" : "nothing", &value);
    *celsius = status == SUCCESS ? (unsigned)value : 0;
    return status;
}

int nvmlDeviceGetRemappedRows(device gpu, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    char value[256];
    int status = ask(gpu, "rows", value);
    if (status == SUCCESS)
        sscanf(value, "%u %u %u %u", corrected, uncorrected, pending, failed);
    return status;
}

int nvmlDeviceGetRetiredPages(device gpu, int cause, unsigned *count, unsigned long long *addresses) {
    char what[64];
    unsigned long long pages;
    snprintf(what, sizeof what, "pages.%d", cause);
    int status = number(gpu, what, &pages);
    if (status != SUCCESS)
        return status;
    *count = (unsigned)pages;
    for (unsigned long long page = 0; addresses && page < pages; page++)
        addresses[page] = page << 12;
    return SUCCESS;
}

int nvmlDeviceGetRetiredPagesPendingStatus(device gpu, int *pending) {
    unsigned long long value;
    int status = number(gpu, "pages.pending", &value);
    *pending = status == SUCCESS && value;
    return status;
}

struct field {
    unsigned id, scope;
    int64_t time, latency;
    unsigned type, status;
    unsigned long long value;
};

int nvmlDeviceGetFieldValues(device gpu, int count, struct field *fields) {
    for (int i = 0; i < count; i++) {
        fields[i].status = number(gpu, fields[i].id == 230 ? "action" : "nothing", &fields[i].value);
    }
    return SUCCESS;
}

int nvmlEventSetCreate(void **set) { return *set = &events_read, events_read = 0, SUCCESS; }
int nvmlDeviceRegisterEvents(device gpu, unsigned long long types, void *set) {
    (void)types, (void)set;
    return number(gpu, "events", &types);
}
int nvmlDeviceGetSupportedEventTypes(device gpu, unsigned long long *types) { return number(gpu, "events", types); }

struct event {
    device gpu;
    unsigned long long type, data;
    unsigned ids[2];
};

int nvmlEventSetWait_v2(void *set, struct event *event, unsigned ms) {
    char path[512];
    unsigned gpu, xid;
    (void)set, (void)ms;
    snprintf(path, sizeof path, "%s.events", getenv("FAKE_NVML"));
    FILE *file = fopen(path, "r");
    if (!file)
        return TIMEOUT;
    fseek(file, events_read, SEEK_SET);
    int found = fscanf(file, "%u %u\n", &gpu, &xid) == 2;
    events_read = ftell(file);
    fclose(file);
    if (!found)
        return TIMEOUT;
    event->gpu = gpu + 1, event->type = 8, event->data = xid;
    return SUCCESS;
}
