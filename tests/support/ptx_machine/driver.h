/* What the parts of the driver share. Every function of the API holds one lock while it runs. */
#ifndef KEEPGATE_PTX_DRIVER_H
#define KEEPGATE_PTX_DRIVER_H

#define _GNU_SOURCE

#include <cuda.h>
#include <pthread.h>

#include "machine.h"

/* The header of CUDA 13 gives the names of these to their second versions; a driver has both. */
#undef cuDeviceGetUuid
#undef cuEventElapsedTime
CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice device);
CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to);

#pragma GCC visibility push(hidden)

#define STATIC_SHARED_LIMIT 49152u
#define RESERVED_SHARED 1024u
#define BLOCK_THREADS 1024u
#define MULTIPROCESSOR_THREADS 2048u
#define POISON 0xff /* what new pinned memory is full of: not a number, as floats */

/* driver.c: the first line of a function of the API. */
typedef enum { NOTHING, INITIALISED, CONTEXT } Needs;
CUresult enter(Needs needs);
void leave(const CUresult *entered);
#define ENTER(needs)                                                                                        \
    __attribute__((cleanup(leave))) const CUresult entered = enter(needs);                                  \
    if (entered != CUDA_SUCCESS) return entered

/* Returns the result, having told why on stderr. */
CUresult fail(CUresult result, const char *why, ...) __attribute__((format(printf, 2, 3)));
/* From now on every call fails so. */
CUresult lose(CUresult result, const char *why);
extern CUresult lost;
unsigned multiprocessors(void);
unsigned optin_shared_limit(void);
CUcontext the_context(void);

/* driver_memory.c: memory lives until the turn when it is freed; what was queued before may still use it. */
typedef struct Memory {
    struct Memory *next;
    uint64_t address, bytes, freed; /* the turn when it was, or 0 */
    void *registered;               /* not the driver's to free */
} Memory;
/* Whether it is part of one allocation that lives at a turn. */
int on_device(uint64_t address, uint64_t bytes, uint64_t turn);
int is_pinned(uint64_t address, uint64_t bytes, uint64_t turn);
/* What was freed before a turn is handed back, all that was queued before it having run. */
void release_until(uint64_t turn);
/* A call that is not observed by stream capture. */
CUresult unsafe_call(void);

/* driver_modules.c: a kernel of a library, and the function that it is in the context. */
typedef struct Library Library;
typedef struct Function {
    struct Function *next;
    const Kernel *kernel;
    Library *library;
    unsigned dynamic_limit;
} Function;
struct Library {
    Library *next;
    void *code;
    Function *functions;
    int alive;
};
/* The function of a handle, which may be a kernel's, or NULL. */
Function *as_function(CUfunction handle);

/* driver_streams.c: what is put into a stream runs when something waits for it, in the order of turns. */
typedef enum { LAUNCH, COPY, SET, RECORD, WAIT } Kind;
typedef struct Event Event;
typedef struct Stream Stream;
typedef struct Operation {
    struct Operation *next;
    uint64_t turn;
    Kind kind;
    Function *function;
    Launch launch;
    uint64_t to, from, bytes;   /* of a copy; of a memset `bytes` elements of `width` bytes at `to` */
    int to_host, from_host, pageable;
    uint32_t value, width;
    Event *event;
    Stream *awaited;
    uint64_t until;
    unsigned char *owned;       /* parameters of a launch, or what a copy of pageable memory copies */
    size_t owned_bytes;
} Operation;
typedef struct {
    Operation *first, **last;
} Operations;
typedef struct Graph {
    struct Graph *next;
    Operations operations;
    int alive, invalidated, ready; /* ready: to be launched */
} Graph;
struct Stream {
    Stream *next;
    Operations queue;
    unsigned flags;
    int alive;
    Graph *capturing;
    CUstreamCaptureMode mode;
    pthread_t thread;
};
extern Stream legacy;
extern uint64_t turns;
Stream *as_stream(CUstream handle);
Operation *copied(const Operation *operation);
void append(Operations *operations, Operation *operation);
void forget(Operations *operations);
/* driver_events.c: the record of a turn has come. */
CUresult happened(Event *event, uint64_t turn);
/* Queued, or recorded if the stream is capturing. */
CUresult put(Stream *stream, const Operation *operation);
/* Runs what was put into a stream, or all streams, before a turn. */
CUresult run_until(Stream *stream, uint64_t turn);
CUresult run_all(uint64_t turn);
/* Before a call that waits for the host's default stream, and for all streams that wait for it. */
CUresult join_legacy(void);
Stream *capturing_stream(void);
CUresult invalidate(Stream *stream, CUresult result, const char *why);

#pragma GCC visibility pop
#endif
