/* Launches, and how many blocks a multiprocessor has room for. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

#define MOST_PARAMETER_BYTES 32764

static CUresult check_shape(const Function *function, const CUlaunchConfig *config) {
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    uint64_t blocks = (uint64_t)config->gridDimX * config->gridDimY * config->gridDimZ;
    const char *name = function->kernel->name;
    if (!threads || threads > BLOCK_THREADS || config->blockDimZ > 64) {
        return fail(CUDA_ERROR_INVALID_VALUE, "%s: blocks of %llu threads", name, (unsigned long long)threads);
    }
    if (!blocks || config->gridDimX > 0x7fffffff || config->gridDimY > 65535 || config->gridDimZ > 65535) {
        return fail(CUDA_ERROR_INVALID_VALUE, "%s: a grid of %u x %u x %u blocks", name, config->gridDimX,
                    config->gridDimY, config->gridDimZ);
    }
    if (config->sharedMemBytes > function->dynamic_limit) {
        return fail(CUDA_ERROR_INVALID_VALUE, "%s: %u bytes of dynamic shared memory, %u are allowed", name,
                    config->sharedMemBytes, function->dynamic_limit);
    }
    return CUDA_SUCCESS;
}

/* Registers are not known here, so never more than one. */
static int room_for(const Function *function, uint64_t threads, uint64_t dynamic_shared) {
    uint64_t shared = dynamic_shared + function->kernel->static_shared;
    return threads && threads <= BLOCK_THREADS && dynamic_shared <= function->dynamic_limit &&
           shared <= optin_shared_limit();
}

static CUresult check_cooperative(const Function *function, const CUlaunchConfig *config) {
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    uint64_t blocks = (uint64_t)config->gridDimX * config->gridDimY * config->gridDimZ;
    uint64_t most = multiprocessors() * (uint64_t)room_for(function, threads, config->sharedMemBytes);
    if (blocks <= most) return CUDA_SUCCESS;
    return fail(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "%s: %llu blocks, there is room for %llu",
                function->kernel->name, (unsigned long long)blocks, (unsigned long long)most);
}

/* The buffer of parameters, each at its place, or NULL. */
static unsigned char *packed(const Kernel *kernel, void **parameters, size_t *bytes) {
    *bytes = 0;
    for (uint32_t index = 0; index < kernel->parameter_count; index++) {
        size_t end = (size_t)kernel->parameter_offsets[index] + kernel->parameter_sizes[index];
        if (end > *bytes) *bytes = end;
        if (!parameters || !parameters[index]) return NULL;
    }
    unsigned char *buffer = calloc(1, *bytes + 1);
    for (uint32_t index = 0; index < kernel->parameter_count; index++) {
        memcpy(buffer + kernel->parameter_offsets[index], parameters[index], kernel->parameter_sizes[index]);
    }
    return buffer;
}

static CUresult launch(const CUlaunchConfig *config, CUfunction handle, void **parameters, void **extra,
                       int cooperative) {
    Function *function = as_function(handle);
    Stream *stream = as_stream(config->hStream);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "a launch in what is no stream");
    if (extra) return fail(CUDA_ERROR_NOT_SUPPORTED, "parameters in one buffer");
    CUresult result = check_shape(function, config);
    if (result == CUDA_SUCCESS && cooperative) result = check_cooperative(function, config);
    if (result != CUDA_SUCCESS) return result;
    size_t bytes;
    unsigned char *buffer = packed(function->kernel, parameters, &bytes);
    if (!buffer || bytes > MOST_PARAMETER_BYTES) {
        free(buffer);
        return fail(CUDA_ERROR_INVALID_VALUE, "%s: a parameter is missing", function->kernel->name);
    }
    result = put(stream, &(Operation){
        .kind = LAUNCH,
        .function = function,
        .launch = {
            .kernel = function->kernel,
            .grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
            .block = {config->blockDimX, config->blockDimY, config->blockDimZ},
            .dynamic_shared = config->sharedMemBytes,
            .cooperative = cooperative,
        },
        .owned = buffer,
        .owned_bytes = bytes,
    });
    free(buffer);
    return result;
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters,
                                  void **extra) {
    ENTER(CONTEXT);
    int cooperative = 0;
    for (unsigned index = 0; index < config->numAttrs; index++) {
        const CUlaunchAttribute *attribute = &config->attrs[index];
        if (attribute->id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) cooperative = attribute->value.cooperative != 0;
        else if (attribute->id != CU_LAUNCH_ATTRIBUTE_IGNORE) {
            return fail(CUDA_ERROR_NOT_SUPPORTED, "attribute %d of a launch", (int)attribute->id);
        }
    }
    return launch(config, function, parameters, extra, cooperative);
}

CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                                CUstream stream, void **parameters, void **extra) {
    ENTER(CONTEXT);
    CUlaunchConfig config = {grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, NULL, 0};
    return launch(&config, function, parameters, extra, 0);
}

CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                           unsigned grid_z, unsigned block_x, unsigned block_y,
                                           unsigned block_z, unsigned shared, CUstream stream,
                                           void **parameters) {
    ENTER(CONTEXT);
    CUlaunchConfig config = {grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, NULL, 0};
    return launch(&config, function, parameters, NULL, 1);
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction handle, int threads,
                                                             size_t dynamic_shared) {
    ENTER(CONTEXT);
    Function *function = as_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (threads <= 0) return fail(CUDA_ERROR_INVALID_VALUE, "the occupancy of blocks of %d threads", threads);
    *blocks = room_for(function, (uint64_t)threads, dynamic_shared);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction handle,
                                                                      int threads, size_t dynamic_shared,
                                                                      unsigned flags) {
    return flags ? CUDA_ERROR_INVALID_VALUE
                 : cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, threads, dynamic_shared);
}
