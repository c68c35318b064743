/* The functions of the API by name: of several versions of one the newest that a caller's CUDA knows. */
#include "driver.h"

#include <string.h>

typedef struct {
    const char *name;
    void *function;
    int since;
} Entry;

#define PLAIN(name) {#name, (void *)name, 0}
#define SINCE(name, function, version) {#name, (void *)function, version}

static const Entry entries[] = {
    PLAIN(cuCtxGetCurrent), PLAIN(cuCtxGetDevice), PLAIN(cuCtxPopCurrent), PLAIN(cuCtxPushCurrent),
    PLAIN(cuCtxSetCurrent), PLAIN(cuCtxSynchronize), PLAIN(cuDeviceGet), PLAIN(cuDeviceGetAttribute),
    PLAIN(cuDeviceGetCount), PLAIN(cuDeviceGetName), SINCE(cuDeviceGetUuid, cuDeviceGetUuid_v2, 11040),
    PLAIN(cuDeviceGetUuid), PLAIN(cuDevicePrimaryCtxGetState), PLAIN(cuDevicePrimaryCtxRelease),
    PLAIN(cuDevicePrimaryCtxRetain), PLAIN(cuDeviceTotalMem), PLAIN(cuDriverGetVersion), PLAIN(cuEventCreate),
    PLAIN(cuEventDestroy), SINCE(cuEventElapsedTime, cuEventElapsedTime_v2, 12080), PLAIN(cuEventElapsedTime),
    PLAIN(cuEventQuery), PLAIN(cuEventRecord), PLAIN(cuEventSynchronize), PLAIN(cuFuncGetAttribute),
    PLAIN(cuFuncSetAttribute), PLAIN(cuGetErrorName), PLAIN(cuGetErrorString), PLAIN(cuGetProcAddress),
    PLAIN(cuGraphDestroy), PLAIN(cuGraphExecDestroy), PLAIN(cuGraphInstantiateWithFlags),
    PLAIN(cuGraphLaunch), SINCE(cuGraphInstantiate, cuGraphInstantiateWithFlags, 12000), PLAIN(cuInit),
    PLAIN(cuKernelGetAttribute), PLAIN(cuKernelGetFunction), PLAIN(cuKernelGetLibrary),
    PLAIN(cuKernelSetAttribute), PLAIN(cuLaunchCooperativeKernel), PLAIN(cuLaunchKernel),
    PLAIN(cuLaunchKernelEx), PLAIN(cuLibraryGetKernel), PLAIN(cuLibraryLoadData), PLAIN(cuLibraryUnload),
    PLAIN(cuMemAlloc), PLAIN(cuMemAllocHost), PLAIN(cuMemFree), PLAIN(cuMemFreeHost),
    PLAIN(cuMemGetAddressRange), PLAIN(cuMemGetInfo), PLAIN(cuMemHostAlloc), PLAIN(cuMemHostRegister),
    PLAIN(cuMemHostUnregister), PLAIN(cuMemcpyDtoD), PLAIN(cuMemcpyDtoDAsync), PLAIN(cuMemcpyDtoH),
    PLAIN(cuMemcpyDtoHAsync), PLAIN(cuMemcpyHtoD), PLAIN(cuMemcpyHtoDAsync), PLAIN(cuMemsetD32),
    PLAIN(cuMemsetD32Async), PLAIN(cuMemsetD8), PLAIN(cuMemsetD8Async), PLAIN(cuModuleGetFunction),
    PLAIN(cuModuleLoadDataEx), PLAIN(cuModuleUnload), PLAIN(cuOccupancyMaxActiveBlocksPerMultiprocessor),
    PLAIN(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags), PLAIN(cuPointerGetAttribute),
    SINCE(cuStreamBeginCapture, cuStreamBeginCapture_v2, 10010), PLAIN(cuStreamCreate),
    PLAIN(cuStreamCreateWithPriority), PLAIN(cuStreamDestroy), PLAIN(cuStreamEndCapture),
    SINCE(cuStreamGetCtx, cuStreamGetCtx_v2, 12050), PLAIN(cuStreamGetCtx), PLAIN(cuStreamGetDevice),
    PLAIN(cuStreamGetFlags), PLAIN(cuStreamIsCapturing), PLAIN(cuStreamQuery), PLAIN(cuStreamSynchronize),
    PLAIN(cuStreamWaitEvent),
};

CUresult CUDAAPI cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags,
                                     CUdriverProcAddressQueryResult *status) {
    const Entry *entry = entries, *end = entries + sizeof entries / sizeof *entries;
    (void)flags;
    while (entry < end && (strcmp(entry->name, name) || version < entry->since)) entry++;
    *function = entry < end ? entry->function : NULL;
    if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
