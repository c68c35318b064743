/* Memory of the device, pinned memory of the host, copies and memsets. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 512

static Memory *device_memory, *pinned_memory;

static Memory *holder(Memory *memory, uint64_t address, uint64_t bytes, uint64_t turn) {
    for (; memory; memory = memory->next) {
        uint64_t within = address - memory->address;
        int lives = !memory->freed || memory->freed > turn;
        if (lives && within <= memory->bytes && bytes <= memory->bytes - within) return memory;
    }
    return NULL;
}

int on_device(uint64_t address, uint64_t bytes, uint64_t turn) {
    return holder(device_memory, address, bytes, turn) && machine_holds(address, bytes);
}

int is_pinned(uint64_t address, uint64_t bytes, uint64_t turn) {
    return holder(pinned_memory, address, bytes, turn) != NULL;
}

static Memory *add(Memory **list, uint64_t address, uint64_t bytes) {
    Memory *memory = calloc(1, sizeof *memory);
    *memory = (Memory){.next = *list, .address = address, .bytes = bytes};
    return *list = memory;
}

/* What lives and begins there. */
static Memory *beginning(Memory *memory, uint64_t address) {
    while (memory && (memory->freed || memory->address != address)) memory = memory->next;
    return memory;
}

static void hand_back(Memory **list, uint64_t turn, int device) {
    while (*list) {
        Memory *memory = *list;
        if (!memory->freed || memory->freed >= turn) {
            list = &memory->next;
            continue;
        }
        *list = memory->next;
        if (device) machine_free(memory->address);
        else if (!memory->registered) free((void *)memory->address);
        free(memory);
    }
}

void release_until(uint64_t turn) {
    uint64_t newest = 0;
    Memory *lists[] = {device_memory, pinned_memory};
    for (int list = 0; list < 2; list++) {
        for (Memory *memory = lists[list]; memory; memory = memory->next) {
            if (memory->freed < turn && memory->freed > newest) newest = memory->freed;
        }
    }
    if (!newest) return;
    run_all(newest);
    hand_back(&device_memory, turn, 1);
    hand_back(&pinned_memory, turn, 0);
}

CUresult unsafe_call(void) {
    Stream *stream = capturing_stream();
    if (!stream || stream->mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
    int own = pthread_equal(stream->thread, pthread_self());
    if (!own && stream->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) return CUDA_SUCCESS;
    return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a call that capture does not see");
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *address, size_t bytes) {
    ENTER(CONTEXT);
    if (!address || !bytes) return fail(CUDA_ERROR_INVALID_VALUE, "an allocation of %zu bytes", bytes);
    CUresult result = unsafe_call();
    if (result != CUDA_SUCCESS) return result;
    *address = machine_allocate(bytes);
    if (!*address) {
        release_until(++turns);
        *address = machine_allocate(bytes);
    }
    if (!*address) return CUDA_ERROR_OUT_OF_MEMORY;
    add(&device_memory, *address, bytes);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
    ENTER(CONTEXT);
    CUresult result = unsafe_call();
    if (result != CUDA_SUCCESS || !address) return result;
    Memory *memory = beginning(device_memory, address);
    if (!memory) return fail(CUDA_ERROR_INVALID_VALUE, "freeing %#llx, which is not allocated", address);
    memory->freed = ++turns;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetInfo(size_t *free_bytes, size_t *total) {
    ENTER(CONTEXT);
    *free_bytes = machine_free_bytes();
    for (Memory *memory = device_memory; memory; memory = memory->next) {
        if (memory->freed) *free_bytes += memory->bytes;
    }
    *total = machine_total_bytes();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
    ENTER(CONTEXT);
    Memory *memory = holder(device_memory, address, 1, UINT64_MAX);
    if (!memory) return fail(CUDA_ERROR_NOT_FOUND, "%#llx is not allocated", address);
    if (base) *base = memory->address;
    if (bytes) *bytes = memory->bytes;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuPointerGetAttribute(void *value, CUpointer_attribute which, CUdeviceptr address) {
    ENTER(CONTEXT);
    int device = on_device(address, 1, UINT64_MAX);
    if (!device && !is_pinned(address, 1, UINT64_MAX)) return CUDA_ERROR_INVALID_VALUE;
    if (which == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) {
        *(unsigned *)value = device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
    } else if (which == CU_POINTER_ATTRIBUTE_DEVICE_POINTER && device) {
        *(CUdeviceptr *)value = address;
    } else {
        return fail(CUDA_ERROR_NOT_SUPPORTED, "attribute %d of a pointer", (int)which);
    }
    return CUDA_SUCCESS;
}

static CUresult pin(void **address, size_t bytes, unsigned flags) {
    CUresult result = unsafe_call();
    if (result != CUDA_SUCCESS) return result;
    if (!address || !bytes) return fail(CUDA_ERROR_INVALID_VALUE, "pinned memory of %zu bytes", bytes);
    if (flags & ~(unsigned)(CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_WRITECOMBINED)) {
        return fail(CUDA_ERROR_NOT_SUPPORTED, "pinned memory with flags %u", flags);
    }
    *address = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!*address) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(*address, POISON, bytes);
    add(&pinned_memory, (uint64_t)*address, bytes);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    ENTER(CONTEXT);
    return pin(address, bytes, flags);
}

CUresult CUDAAPI cuMemAllocHost(void **address, size_t bytes) {
    ENTER(CONTEXT);
    return pin(address, bytes, 0);
}

static CUresult unpin(void *address, int registered, CUresult otherwise) {
    CUresult result = unsafe_call();
    if (result != CUDA_SUCCESS) return result;
    Memory *memory = beginning(pinned_memory, (uint64_t)address);
    if (!memory || !memory->registered != !registered) return fail(otherwise, "%p is not pinned so", address);
    memory->freed = ++turns;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemFreeHost(void *address) {
    ENTER(CONTEXT);
    return unpin(address, 0, CUDA_ERROR_INVALID_VALUE);
}

CUresult CUDAAPI cuMemHostRegister(void *address, size_t bytes, unsigned flags) {
    ENTER(CONTEXT);
    if (!address || !bytes || flags) return fail(CUDA_ERROR_INVALID_VALUE, "pinning with flags %u", flags);
    for (Memory *memory = pinned_memory; memory; memory = memory->next) {
        uint64_t first = (uint64_t)address;
        int apart = first >= memory->address + memory->bytes || memory->address >= first + bytes;
        if (!memory->freed && !apart) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    }
    add(&pinned_memory, (uint64_t)address, bytes)->registered = address;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostUnregister(void *address) {
    ENTER(CONTEXT);
    CUresult result = run_all(++turns); /* the pages are its owner's again */
    return result ? result : unpin(address, 1, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

/* Checks what is copied, and puts it into the stream. Pageable memory to copy from is copied before this
   returns; copies into such have ended by then. */
static CUresult copy(Stream *stream, Operation operation) {
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "a copy in what is no stream");
    uint64_t now = ++turns, host = operation.to_host ? operation.to : operation.from;
    if (!operation.bytes) return CUDA_SUCCESS;
    if (!operation.to_host && !on_device(operation.to, operation.bytes, now)) {
        return fail(CUDA_ERROR_INVALID_VALUE, "a copy of %llu bytes to %#llx, not one live allocation",
                    (unsigned long long)operation.bytes, (unsigned long long)operation.to);
    }
    if (!operation.from_host && !on_device(operation.from, operation.bytes, now)) {
        return fail(CUDA_ERROR_INVALID_VALUE, "a copy of %llu bytes from %#llx, not one live allocation",
                    (unsigned long long)operation.bytes, (unsigned long long)operation.from);
    }
    if (operation.to_host || operation.from_host) {
        if (!host || holder(device_memory, host, 1, now)) {
            return fail(CUDA_ERROR_INVALID_VALUE, "%#llx is not the host's", (unsigned long long)host);
        }
        if (!is_pinned(host, operation.bytes, now)) {
            if (stream->capturing) {
                return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a copy of pageable memory");
            }
            operation.pageable = 1;
            if (operation.from_host) {
                operation.owned = (unsigned char *)operation.from;
                operation.owned_bytes = operation.bytes;
            }
        }
    }
    CUresult result = put(stream, &operation);
    if (result == CUDA_SUCCESS && operation.pageable && operation.to_host) result = run_until(stream, ++turns);
    return result;
}

static CUresult copy_now(Operation operation) {
    CUresult result = join_legacy();
    if (result == CUDA_SUCCESS) result = copy(&legacy, operation);
    return result == CUDA_SUCCESS ? run_until(&legacy, ++turns) : result;
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    ENTER(CONTEXT);
    return copy_now((Operation){.kind = COPY, .to = to, .from = (uint64_t)from, .bytes = bytes, .from_host = 1});
}

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    ENTER(CONTEXT);
    return copy_now((Operation){.kind = COPY, .to = (uint64_t)to, .from = from, .bytes = bytes, .to_host = 1});
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER(CONTEXT);
    return copy(&legacy, (Operation){.kind = COPY, .to = to, .from = from, .bytes = bytes});
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    ENTER(CONTEXT);
    Operation operation = {.kind = COPY, .to = to, .from = (uint64_t)from, .bytes = bytes, .from_host = 1};
    return copy(as_stream(stream), operation);
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(CONTEXT);
    Operation operation = {.kind = COPY, .to = (uint64_t)to, .from = from, .bytes = bytes, .to_host = 1};
    return copy(as_stream(stream), operation);
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(CONTEXT);
    return copy(as_stream(stream), (Operation){.kind = COPY, .to = to, .from = from, .bytes = bytes});
}

static CUresult set(Stream *stream, CUdeviceptr to, uint32_t value, uint32_t width, size_t count) {
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "a memset in what is no stream");
    if (to % width) return fail(CUDA_ERROR_INVALID_VALUE, "a memset at %#llx, not aligned to %u", to, width);
    if (!count) return CUDA_SUCCESS;
    if (!on_device(to, count * width, ++turns)) {
        return fail(CUDA_ERROR_INVALID_VALUE, "a memset of %zu bytes at %#llx, not one live allocation",
                    count * width, to);
    }
    return put(stream, &(Operation){.kind = SET, .to = to, .value = value, .width = width, .bytes = count});
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
    ENTER(CONTEXT);
    return set(&legacy, to, value, 1, count);
}

CUresult CUDAAPI cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) {
    ENTER(CONTEXT);
    return set(&legacy, to, value, 4, count);
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    ENTER(CONTEXT);
    return set(as_stream(stream), to, value, 1, count);
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    ENTER(CONTEXT);
    return set(as_stream(stream), to, value, 4, count);
}
