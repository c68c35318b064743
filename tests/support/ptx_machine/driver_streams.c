/* Streams: what is put into one is held back until something waits for it. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

Stream legacy = {.queue = {NULL, &legacy.queue.first}, .alive = 1};
static Stream *streams;
uint64_t turns;

Stream *as_stream(CUstream handle) {
    if (!handle || handle == CU_STREAM_LEGACY) return &legacy;
    for (Stream *stream = streams; stream; stream = stream->next) {
        if (stream == (Stream *)handle && stream->alive) return stream;
    }
    return NULL;
}

static int blocks(const Stream *stream) { return !(stream->flags & CU_STREAM_NON_BLOCKING); }

Stream *capturing_stream(void) {
    for (Stream *stream = streams; stream; stream = stream->next) {
        if (stream->capturing) return stream;
    }
    return NULL;
}

CUresult invalidate(Stream *stream, CUresult result, const char *why) {
    stream->capturing->invalidated = 1;
    return fail(result, "%s while a stream is being captured", why);
}

/* A use of the legacy stream would order it and a blocking stream that is being captured. */
static CUresult use_legacy(void) {
    for (Stream *stream = streams; stream; stream = stream->next) {
        if (stream->capturing && blocks(stream)) {
            return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "a use of the legacy stream");
        }
    }
    return CUDA_SUCCESS;
}

Operation *copied(const Operation *operation) {
    Operation *copy = malloc(sizeof *copy);
    *copy = *operation;
    copy->next = NULL;
    if (operation->owned) {
        copy->owned = malloc(operation->owned_bytes + 1);
        memcpy(copy->owned, operation->owned, operation->owned_bytes);
    }
    return copy;
}

void append(Operations *operations, Operation *operation) {
    *operations->last = operation;
    operations->last = &operation->next;
}

static Operation *taken(Operations *operations) {
    Operation *operation = operations->first;
    operations->first = operation->next;
    if (!operations->first) operations->last = &operations->first;
    return operation;
}

static void discard(Operation *operation) {
    free(operation->owned);
    free(operation);
}

void forget(Operations *operations) {
    while (operations->first) discard(taken(operations));
}

CUresult put(Stream *stream, const Operation *operation) {
    if (stream->capturing) {
        if (stream->capturing->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        append(&stream->capturing->operations, copied(operation));
        return CUDA_SUCCESS;
    }
    CUresult result = stream == &legacy ? use_legacy() : CUDA_SUCCESS;
    if (result != CUDA_SUCCESS) return result;
    Operation *queued = copied(operation);
    queued->turn = ++turns;
    append(&stream->queue, queued);
    return CUDA_SUCCESS;
}

static CUresult launch(Operation *operation) {
    if (!operation->function->library->alive) {
        return lose(CUDA_ERROR_ILLEGAL_ADDRESS, "a launch of a kernel whose library was unloaded");
    }
    operation->launch.parameters = operation->owned;
    return machine_launch(&operation->launch) ? lose(CUDA_ERROR_ILLEGAL_ADDRESS, machine_error) : CUDA_SUCCESS;
}

static int reaches(const Operation *operation, uint64_t address, int host) {
    uint64_t bytes = operation->bytes * (operation->kind == SET ? operation->width : 1);
    if (host && operation->pageable) return 1;
    return host ? is_pinned(address, bytes, operation->turn) : on_device(address, bytes, operation->turn);
}

static CUresult copy_or_set(Operation *operation) {
    if (!reaches(operation, operation->to, operation->to_host)) {
        return lose(CUDA_ERROR_ILLEGAL_ADDRESS, "a write to memory that was freed when its turn came");
    }
    unsigned char *to = (unsigned char *)operation->to;
    if (operation->kind == COPY) {
        if (!reaches(operation, operation->from, operation->from_host)) {
            return lose(CUDA_ERROR_ILLEGAL_ADDRESS, "a read of memory that was freed when its turn came");
        }
        memmove(to, operation->owned ? operation->owned : (unsigned char *)operation->from, operation->bytes);
    } else {
        for (uint64_t index = 0; index < operation->bytes; index++) {
            memcpy(to + index * operation->width, &operation->value, operation->width);
        }
    }
    return CUDA_SUCCESS;
}

static CUresult run(Operation *operation) {
    switch (operation->kind) {
    case LAUNCH: return launch(operation);
    case WAIT: return run_until(operation->awaited, operation->until + 1);
    case RECORD: return happened(operation->event, operation->until);
    default: return copy_or_set(operation);
    }
}

static CUresult run_blocking(uint64_t turn) {
    CUresult result = CUDA_SUCCESS;
    for (Stream *stream = streams; stream && result == CUDA_SUCCESS; stream = stream->next) {
        if (blocks(stream)) result = run_until(stream, turn);
    }
    return result;
}

CUresult run_until(Stream *stream, uint64_t turn) {
    while (lost == CUDA_SUCCESS && stream->queue.first && stream->queue.first->turn < turn) {
        Operation *operation = taken(&stream->queue);
        if (stream == &legacy) run_blocking(operation->turn);
        else if (blocks(stream)) run_until(&legacy, operation->turn);
        release_until(operation->turn);
        if (lost == CUDA_SUCCESS) run(operation);
        discard(operation);
    }
    return lost;
}

CUresult run_all(uint64_t turn) {
    CUresult result = run_until(&legacy, turn);
    for (Stream *stream = streams; stream && result == CUDA_SUCCESS; stream = stream->next) {
        result = run_until(stream, turn);
    }
    return result;
}

CUresult join_legacy(void) {
    CUresult result = use_legacy();
    if (result == CUDA_SUCCESS) result = run_until(&legacy, ++turns);
    return result == CUDA_SUCCESS ? run_blocking(turns) : result;
}

static CUresult create(CUstream *handle, unsigned flags) {
    if (flags & ~(unsigned)CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    Stream *stream = calloc(1, sizeof *stream);
    *stream = (Stream){.next = streams, .queue = {NULL, &stream->queue.first}, .flags = flags, .alive = 1};
    streams = stream;
    *handle = (CUstream)stream;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamCreate(CUstream *handle, unsigned flags) {
    ENTER(CONTEXT);
    return create(handle, flags);
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *handle, unsigned flags, int priority) {
    ENTER(CONTEXT);
    (void)priority; /* one that is out of range is moved into it */
    return create(handle, flags);
}

/* The stream of a handle, unless it is being captured and this may then not be asked of it. */
static CUresult waitable(CUstream handle, Stream **stream, const char *what) {
    *stream = as_stream(handle);
    if (!*stream) return fail(CUDA_ERROR_INVALID_HANDLE, "%s of what is no stream", what);
    if ((*stream)->capturing) return invalidate(*stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, what);
    return *stream == &legacy ? use_legacy() : CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
    ENTER(CONTEXT);
    Stream *stream = as_stream(handle);
    if (!stream || stream == &legacy) return fail(CUDA_ERROR_INVALID_HANDLE, "destroying what is no stream");
    if (stream->capturing) stream->capturing->invalidated = 1;
    stream->capturing = NULL;
    stream->alive = 0; /* what is in it still runs */
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
    ENTER(CONTEXT);
    Stream *stream;
    CUresult result = waitable(handle, &stream, "a wait");
    if (result != CUDA_SUCCESS) return result;
    return stream == &legacy ? join_legacy() : run_until(stream, ++turns);
}

CUresult CUDAAPI cuStreamQuery(CUstream handle) {
    ENTER(CONTEXT);
    Stream *stream;
    CUresult result = waitable(handle, &stream, "a query");
    if (result != CUDA_SUCCESS || !stream->queue.first) return result;
    result = run_until(stream, ++turns); /* it is ready the next time */
    return result ? result : CUDA_ERROR_NOT_READY;
}

CUresult CUDAAPI cuStreamGetCtx(CUstream handle, CUcontext *context) {
    ENTER(CONTEXT);
    if (!as_stream(handle)) return fail(CUDA_ERROR_INVALID_HANDLE, "the context of what is no stream");
    *context = the_context();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetCtx_v2(CUstream handle, CUcontext *context, CUgreenCtx *green) {
    if (green) *green = NULL;
    return cuStreamGetCtx(handle, context);
}

CUresult CUDAAPI cuStreamGetDevice(CUstream handle, CUdevice *device) {
    ENTER(CONTEXT);
    if (!as_stream(handle)) return fail(CUDA_ERROR_INVALID_HANDLE, "the device of what is no stream");
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetFlags(CUstream handle, unsigned *flags) {
    ENTER(CONTEXT);
    Stream *stream = as_stream(handle);
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "the flags of what is no stream");
    *flags = stream->flags;
    return CUDA_SUCCESS;
}
