/* Another date, at the border of libc: the system tests preload this into a program.
 *
 * The wall clock is CLOCK_SHIFT seconds ahead, or behind; what counts passing time (CLOCK_MONOTONIC) goes on as it does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long long shift;

__attribute__((constructor)) static void begin(void) {
    const char *seconds = getenv("CLOCK_SHIFT");
    if (!seconds)
        abort();
    shift = atoll(seconds);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = ((int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime"))(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    int failed = ((int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday"))(now, zone);
    if (!failed)
        now->tv_sec += shift;
    return failed;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}
