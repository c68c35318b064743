/* Errors, devices and contexts of a CUDA driver whose device is the machine for PTX. */
#include "driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int initialised;
static unsigned retained;
static char context_handle; /* its address is the handle */
static _Thread_local CUcontext stack[STACK];
static _Thread_local int depth;
CUresult lost = CUDA_SUCCESS;

CUcontext the_context(void) { return (CUcontext)&context_handle; }

CUresult enter(Needs needs) {
    pthread_mutex_lock(&lock);
    if (needs == NOTHING) return CUDA_SUCCESS;
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (needs == INITIALISED) return CUDA_SUCCESS;
    if (!depth || !stack[depth - 1]) return fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current");
    if (!retained) return fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the primary context was released");
    return lost;
}

void leave(const CUresult *entered) {
    (void)entered;
    pthread_mutex_unlock(&lock);
}

CUresult fail(CUresult result, const char *why, ...) {
    va_list arguments;
    const char *name = "?";
    va_start(arguments, why);
    cuGetErrorName(result, &name);
    fprintf(stderr, "PTX machine: %s: ", name);
    vfprintf(stderr, why, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return result;
}

CUresult lose(CUresult result, const char *why) {
    if (lost == CUDA_SUCCESS) lost = fail(result, "%s", why);
    return lost;
}

static unsigned setting(const char *name, unsigned otherwise) {
    const char *text = getenv(name);
    int number = text ? atoi(text) : 0;
    return number > 0 ? (unsigned)number : otherwise;
}

unsigned multiprocessors(void) { return setting("PTX_MACHINE_MULTIPROCESSORS", 132); }

unsigned optin_shared_limit(void) { return setting("PTX_MACHINE_SHARED_BYTES", 232448); }

#define RESULTS(R)                                                                                          \
    R(CUDA_SUCCESS, "no error")                                                                             \
    R(CUDA_ERROR_INVALID_VALUE, "invalid argument")                                                         \
    R(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                                                            \
    R(CUDA_ERROR_NOT_INITIALIZED, "initialization error")                                                   \
    R(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")                                           \
    R(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")                                                  \
    R(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid")                                           \
    R(CUDA_ERROR_INVALID_CONTEXT, "invalid device context")                                                 \
    R(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device")             \
    R(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed")                                               \
    R(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle")                                                 \
    R(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state")                   \
    R(CUDA_ERROR_NOT_FOUND, "named symbol not found")                                                       \
    R(CUDA_ERROR_NOT_READY, "device not ready")                                                             \
    R(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                               \
    R(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")                        \
    R(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                                              \
    R(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the memory is already pinned")             \
    R(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region")   \
    R(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch")                     \
    R(CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                                                  \
    R(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing")            \
    R(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture")     \
    R(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream")       \
    R(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "operation would make the legacy stream depend on a capture")     \
    R(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream") \
    R(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a capture from another thread")

CUresult CUDAAPI cuGetErrorName(CUresult result, const char **name) {
#define NAME(code, text)                                                                                    \
    if (result == code) return *name = #code, CUDA_SUCCESS;
    RESULTS(NAME)
    *name = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGetErrorString(CUresult result, const char **name) {
#define TEXT(code, text)                                                                                    \
    if (result == code) return *name = text, CUDA_SUCCESS;
    RESULTS(TEXT)
    *name = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuInit(unsigned flags) {
    ENTER(NOTHING);
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    initialised = 1;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int *count) {
    ENTER(INITIALISED);
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER(INITIALISED);
    if (ordinal) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetName(char *name, int room, CUdevice device) {
    ENTER(INITIALISED);
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    if (!name || room <= 0) return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, (size_t)room, "Keepgate PTX machine");
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    ENTER(INITIALISED);
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    memcpy(uuid->bytes, "keepgate-machine", sizeof uuid->bytes);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    ENTER(INITIALISED);
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = machine_total_bytes();
    return CUDA_SUCCESS;
}

static int attribute(CUdevice_attribute which) {
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return BLOCK_THREADS;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return STATIC_SHARED_LIMIT;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return (int)optin_shared_limit();
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return (int)(optin_shared_limit() + RESERVED_SHARED);
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: return RESERVED_SHARED;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return 32;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1980000;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return (int)multiprocessors();
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return MULTIPROCESSOR_THREADS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return 9;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return 0;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 50 << 20;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: return 1;
    default: return 0; /* the device lacks it */
    }
}

CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
    ENTER(INITIALISED);
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    if (which <= 0 || which >= CU_DEVICE_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
    *value = attribute(which);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    ENTER(INITIALISED);
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    retained++;
    *context = the_context();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER(INITIALISED);
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    if (!retained) return CUDA_ERROR_INVALID_CONTEXT;
    retained--;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    ENTER(INITIALISED);
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    *flags = 0;
    *active = retained > 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context) {
    ENTER(INITIALISED);
    *context = depth ? stack[depth - 1] : NULL;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext context) {
    ENTER(INITIALISED);
    if (context != the_context()) return fail(CUDA_ERROR_INVALID_CONTEXT, "pushing what is no context");
    if (depth == STACK) return fail(CUDA_ERROR_INVALID_VALUE, "a thread's stack of contexts is full");
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *context) {
    ENTER(INITIALISED);
    if (!depth) return fail(CUDA_ERROR_INVALID_CONTEXT, "popping from an empty stack of contexts");
    if (context) *context = stack[depth - 1];
    depth--;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext context) {
    ENTER(INITIALISED);
    if (context && context != the_context()) return CUDA_ERROR_INVALID_CONTEXT;
    if (depth) depth--;
    if (context) stack[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) {
    ENTER(CONTEXT);
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSynchronize(void) {
    ENTER(CONTEXT);
    Stream *stream = capturing_stream();
    if (stream) {
        return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a wait for the whole context");
    }
    return run_all(++turns);
}
