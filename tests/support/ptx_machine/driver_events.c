/* Events: places in streams. */
#include "driver.h"

#include <stdlib.h>
#include <time.h>

struct Event {
    Event *next;
    Stream *stream;
    uint64_t turn; /* of the latest record, or 0 */
    double seconds;
    unsigned flags;
    int alive, captured, done;
};

static Event *events;

CUresult happened(Event *event, uint64_t turn) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (event->turn == turn) { /* it was not recorded anew since */
        event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
        event->done = 1;
    }
    return CUDA_SUCCESS;
}

static Event *as_event(CUevent handle) {
    for (Event *event = events; event; event = event->next) {
        if (event == (Event *)handle && event->alive) return event;
    }
    fail(CUDA_ERROR_INVALID_HANDLE, "%p is no event", (void *)handle);
    return NULL;
}

CUresult CUDAAPI cuEventCreate(CUevent *handle, unsigned flags) {
    ENTER(CONTEXT);
    if (flags & ~(unsigned)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING)) return CUDA_ERROR_INVALID_VALUE;
    Event *event = calloc(1, sizeof *event);
    *event = (Event){.next = events, .flags = flags, .alive = 1};
    events = event;
    *handle = (CUevent)event;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
    ENTER(CONTEXT);
    Event *event = as_event(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    event->alive = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecord(CUevent handle, CUstream where) {
    ENTER(CONTEXT);
    Event *event = as_event(handle);
    Stream *stream = as_stream(where);
    if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
    event->captured = stream->capturing != NULL;
    event->done = 0;
    if (event->captured) return CUDA_SUCCESS;
    event->stream = stream;
    event->turn = turns + 1;
    return put(stream, &(Operation){.kind = RECORD, .event = event, .until = event->turn});
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
    ENTER(CONTEXT);
    Event *event = as_event(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (event->captured) return fail(CUDA_ERROR_CAPTURED_EVENT, "a wait for a recorded event");
    return event->turn ? run_until(event->stream, event->turn + 1) : CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventQuery(CUevent handle) {
    ENTER(CONTEXT);
    Event *event = as_event(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (event->captured) return fail(CUDA_ERROR_CAPTURED_EVENT, "a query of a recorded event");
    if (!event->turn || event->done) return CUDA_SUCCESS;
    CUresult result = run_until(event->stream, event->turn + 1);
    return result ? result : CUDA_ERROR_NOT_READY;
}

CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to) {
    ENTER(CONTEXT);
    Event *first = as_event(from), *second = as_event(to);
    if (!first || !second || !first->turn || !second->turn) return CUDA_ERROR_INVALID_HANDLE;
    if ((first->flags | second->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
    if (!first->done || !second->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)(1e3 * (second->seconds - first->seconds));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventElapsedTime_v2(float *milliseconds, CUevent from, CUevent to) {
    return cuEventElapsedTime(milliseconds, from, to);
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream where, CUevent handle, unsigned flags) {
    ENTER(CONTEXT);
    (void)flags;
    Event *event = as_event(handle);
    Stream *stream = as_stream(where);
    if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
    if (event->captured) return fail(CUDA_ERROR_NOT_SUPPORTED, "captures that fork");
    if (!event->turn) return CUDA_SUCCESS;
    if (stream->capturing) {
        return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "a wait for what is not recorded");
    }
    return put(stream, &(Operation){.kind = WAIT, .awaited = event->stream, .until = event->turn});
}
