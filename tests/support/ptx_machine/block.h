/* A thread block, and what is known of its shared memory. */
#ifndef KEEPGATE_PTX_BLOCK_H
#define KEEPGATE_PTX_BLOCK_H

#include "thread.h"

enum { LANES = 32, NOBODY = -1, SEVERAL = -2 };

/* Of a word of shared memory: who wrote and who read it last, between which barriers. `SEVERAL`: readers of
   more than one warp; -3 - w: more than one of warp w. */
typedef struct {
    uint32_t written_epoch, written_warp_epoch, read_epoch, read_warp_epoch;
    int32_t writer, reader, copier; /* copier: a copy of this thread is on its way here */
} Word;

struct Block {
    const Launch *launch;
    uint32_t number, size, alive, epoch, warps;
    uint32_t *warp_epochs;
    unsigned char *shared;
    uint32_t shared_bytes;
    Word *words;
    unsigned char *threads;
    uint32_t *order; /* of warps */
    uint32_t polled;
};

static inline Thread *thread_of(const Block *block, uint32_t number) {
    return (Thread *)(block->threads + (size_t)number * block->launch->kernel->thread_bytes);
}

/* memory.c */
int memory_open(void);
void memory_begin(void);
void memory_end(Thread *thread);

/* machine.c */
uint64_t machine_dice(uint64_t sides);

#endif
