/* Libraries of PTX, translated and loaded, and their kernels. */
#include "driver.h"

#include <dlfcn.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static Library *libraries;

static Library *as_library(const void *handle) {
    for (Library *library = libraries; library; library = library->next) {
        if (library == handle && library->alive) return library;
    }
    fail(CUDA_ERROR_INVALID_HANDLE, "%p is no library", handle);
    return NULL;
}

/* A kernel's handle is its function's address, a function's handle the byte behind that. */
static void *function_handle(Function *function) { return (char *)function + 1; }

static Function *find(const void *handle, int kernels, int functions) {
    for (Library *library = libraries; library; library = library->next) {
        for (Function *function = library->alive ? library->functions : NULL; function; function = function->next) {
            if (kernels && handle == function) return function;
            if (functions && handle == function_handle(function)) return function;
        }
    }
    fail(CUDA_ERROR_INVALID_HANDLE, "%p is no %s", handle, functions ? "function" : "kernel");
    return NULL;
}

Function *as_function(CUfunction handle) { return find(handle, 1, 1); }

/* Runs the translator on a file. */
static int translated(const char *ptx, const char *code) {
    char *arguments[] = {"sh", "-c", "eval \"$PTX_MACHINE_TRANSLATE\" '\"$0\" \"$1\"'", (char *)ptx, (char *)code, NULL};
    pid_t child;
    int status = 0;
    if (posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ)) return 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* The code of a file, which is linked to this library's symbols. */
static void *loaded(const char *path) {
    Dl_info own;
    if (!dladdr((void *)&loaded, &own) || !dlopen(own.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD)) return NULL;
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static void *compiled(const char *ptx) {
    char folder[] = "/tmp/keepgate-ptx-XXXXXX", text[64], code[64];
    if (!mkdtemp(folder)) return NULL;
    snprintf(text, sizeof text, "%s/kernel.ptx", folder);
    snprintf(code, sizeof code, "%s/kernel.so", folder);
    void *handle = NULL;
    FILE *file = fopen(text, "w");
    int written = file && fputs(ptx, file) >= 0;
    if (file && fclose(file)) written = 0;
    if (written && translated(text, code)) {
        handle = loaded(code);
        if (!handle) fail(CUDA_ERROR_INVALID_PTX, "%s", dlerror());
    }
    unlink(text);
    unlink(code);
    rmdir(folder);
    return handle;
}

static CUresult load(Library **result, const char *image) {
    CUresult safe = unsafe_call();
    if (safe != CUDA_SUCCESS) return safe;
    if (!image) return fail(CUDA_ERROR_INVALID_VALUE, "no image to load");
    if (!strstr(image, ".version")) return fail(CUDA_ERROR_INVALID_IMAGE, "only PTX can be loaded");
    void *code = compiled(image);
    const Kernel *const *kernels = code ? dlsym(code, "kernels") : NULL;
    if (!kernels) return fail(CUDA_ERROR_INVALID_PTX, "the PTX was not translated");
    Library *library = calloc(1, sizeof *library);
    *library = (Library){.next = libraries, .code = code, .alive = 1};
    for (; *kernels; kernels++) {
        Function *function = calloc(1, sizeof *function);
        *function = (Function){.next = library->functions, .kernel = *kernels, .library = library};
        if ((*kernels)->static_shared > STATIC_SHARED_LIMIT) {
            return fail(CUDA_ERROR_INVALID_PTX, "%s: too much static shared memory", (*kernels)->name);
        }
        function->dynamic_limit = STATIC_SHARED_LIMIT - (*kernels)->static_shared;
        library->functions = function;
    }
    libraries = library;
    *result = library;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLibraryLoadData(CUlibrary *library, const void *image, CUjit_option *jit, void **jit_values,
                                   unsigned jit_count, CUlibraryOption *options, void **values,
                                   unsigned count) {
    ENTER(CONTEXT);
    (void)jit, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
    return load((Library **)library, image);
}

CUresult CUDAAPI cuLibraryUnload(CUlibrary handle) {
    ENTER(CONTEXT);
    Library *library = as_library(handle);
    if (!library) return CUDA_ERROR_INVALID_HANDLE;
    library->alive = 0; /* the code stays, for what still refers to it to be told of */
    return CUDA_SUCCESS;
}

static CUresult named(Function **result, const void *handle, const char *name) {
    Library *library = as_library(handle);
    if (!library) return CUDA_ERROR_INVALID_HANDLE;
    for (Function *function = library->functions; function; function = function->next) {
        if (strcmp(function->kernel->name, name) == 0) return *result = function, CUDA_SUCCESS;
    }
    return fail(CUDA_ERROR_NOT_FOUND, "no kernel %s", name);
}

CUresult CUDAAPI cuLibraryGetKernel(CUkernel *kernel, CUlibrary handle, const char *name) {
    ENTER(CONTEXT);
    return named((Function **)kernel, handle, name);
}

CUresult CUDAAPI cuKernelGetFunction(CUfunction *result, CUkernel kernel) {
    ENTER(CONTEXT);
    Function *function = find(kernel, 1, 0);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    *result = function_handle(function);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuKernelGetLibrary(CUlibrary *library, CUkernel kernel) {
    ENTER(CONTEXT);
    Function *function = find(kernel, 1, 0);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    *library = (CUlibrary)function->library;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options,
                                    void **values) {
    ENTER(CONTEXT);
    (void)count, (void)options, (void)values;
    return load((Library **)module, image);
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction *result, CUmodule module, const char *name) {
    ENTER(CONTEXT);
    Function *function;
    CUresult found = named(&function, module, name);
    if (found == CUDA_SUCCESS) *result = function_handle(function);
    return found;
}

CUresult CUDAAPI cuModuleUnload(CUmodule module) { return cuLibraryUnload((CUlibrary)module); }

static CUresult get(int *value, CUfunction_attribute which, const Function *function) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = BLOCK_THREADS; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = (int)function->kernel->static_shared; break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = (int)function->kernel->local_bytes; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = (int)function->dynamic_limit; break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = 90; break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 0; break; /* not known here */
    default: return fail(CUDA_ERROR_INVALID_VALUE, "attribute %d of a kernel", (int)which);
    }
    return CUDA_SUCCESS;
}

static CUresult set(Function *function, CUfunction_attribute which, int value) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (which == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
        return value < -1 || value > 100 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    }
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        return fail(CUDA_ERROR_INVALID_VALUE, "attribute %d of a kernel cannot be set", (int)which);
    }
    if (value < 0 || (uint64_t)value + function->kernel->static_shared > optin_shared_limit()) {
        return fail(CUDA_ERROR_INVALID_VALUE, "%s: %d bytes of dynamic and %u of static shared memory",
                    function->kernel->name, value, function->kernel->static_shared);
    }
    function->dynamic_limit = (unsigned)value;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuKernelGetAttribute(int *value, CUfunction_attribute which, CUkernel kernel, CUdevice device) {
    ENTER(CONTEXT);
    return device ? CUDA_ERROR_INVALID_DEVICE : get(value, which, find(kernel, 1, 0));
}

CUresult CUDAAPI cuKernelSetAttribute(CUfunction_attribute which, int value, CUkernel kernel, CUdevice device) {
    ENTER(CONTEXT);
    return device ? CUDA_ERROR_INVALID_DEVICE : set(find(kernel, 1, 0), which, value);
}

CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction function) {
    ENTER(CONTEXT);
    return get(value, which, find(function, 0, 1));
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
    ENTER(CONTEXT);
    return set(find(function, 0, 1), which, value);
}
