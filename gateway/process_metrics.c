/* What the process itself uses. */
#include "gateway/process_metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "base/metrics.h"
#include "gateway/body.h"

static struct metric_series *gauge(enum metric metric)
{
    return metric_series(metric, (const char *const[METRIC_LABELS_MAX]){NULL});
}

static int64_t resident_bytes(void)
{
    long long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL)
        return 0;
    int found = fscanf(file, "%lld %lld", &pages, &resident);
    fclose(file);
    return found == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

static int64_t open_descriptors(void)
{
    int64_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL)
        return 0;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count - 3; /* ".", ".." and the directory's own */
}

void process_metrics_update(void)
{
    metric_set(gauge(METRIC_RESIDENT_BYTES), resident_bytes());
    metric_set(gauge(METRIC_OPEN_FDS), open_descriptors());
    metric_set(gauge(METRIC_BODY_BYTES), bodies_bytes());
}
