/* A machine for PTX: kernels translated to C by `translate.py`, run thread by thread on the processor.

   `driver.c` makes a CUDA driver of it. Device memory is one arena, so that an address in it is known to be
   one, and to lie in live memory. */
#ifndef KEEPGATE_PTX_MACHINE_H
#define KEEPGATE_PTX_MACHINE_H

#include <stddef.h>
#include <stdint.h>

typedef struct Thread Thread;

/* What a translation unit exports as `kernel`: one entry of a PTX module. */
typedef struct {
    const char *name;
    uint32_t thread_bytes;      /* of a Thread and its registers */
    uint32_t static_shared;     /* bytes; dynamic shared memory lies behind them */
    uint32_t local_bytes;
    uint32_t parameter_count;
    const uint32_t *parameter_offsets; /* in the buffer of parameters, by their alignment */
    const uint32_t *parameter_sizes;
    int (*run)(Thread *);       /* until the thread waits or ends */
} Kernel;

typedef struct {
    uint32_t x, y, z;
} Extent;

typedef struct {
    const Kernel *kernel;
    Extent grid, block;
    uint32_t dynamic_shared;
    int cooperative;            /* all blocks are alive at once */
    const unsigned char *parameters; /* as parameter_offsets say */
} Launch;

/* Runs it to the end. Returns 0, or 1 with what went wrong in `machine_error`. */
int machine_launch(const Launch *launch);
extern char machine_error[1024];

/* Device memory, 512 bytes aligned. machine_allocate: 0 if the arena is full. machine_free: 0, or 1 if
   nothing was allocated there. machine_holds: whether [address, address + bytes) is live memory. */
uint64_t machine_allocate(uint64_t bytes);
int machine_free(uint64_t address);
int machine_holds(uint64_t address, uint64_t bytes);
uint64_t machine_free_bytes(void);
uint64_t machine_total_bytes(void);

/* The order of threads is drawn anew at every barrier, from this. */
void machine_seed(uint64_t seed);

#endif
