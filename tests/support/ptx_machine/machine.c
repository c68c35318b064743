/* Runs the threads of a launch, warps and lanes in an order drawn anew each time, each as far as it gets. */
#include "block.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_POLLS = 1 << 20 };

char machine_error[1024];
static jmp_buf gave_up;
static uint64_t dice = 0x9E3779B97F4A7C15ull;

void machine_seed(uint64_t seed) { dice = seed * 0x9E3779B97F4A7C15ull | 1; }

/* xorshift (Marsaglia, 2003) */
uint64_t machine_dice(uint64_t sides) {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (dice >> 11) % sides;
}

void machine_fault(Thread *thread, const char *format, ...) {
    const Block *block = thread->block;
    int length = snprintf(machine_error, sizeof machine_error, "%.60s line %u, block %u,%u thread %u: ", block->launch->kernel->name,
                          thread->line, thread->block_at.x, thread->block_at.y, thread->number);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(machine_error + length, sizeof machine_error - (size_t)length, format, arguments);
    va_end(arguments);
    longjmp(gave_up, 1);
}

static float bf16(uint32_t word, int half) { return to_float(half ? word & 0xFFFF0000u : word << 16); }
static int32_t int8(uint32_t word, int byte) { return (int8_t)(word >> 8 * byte); }

/* PTX ISA 8, 9.7.14: lane l holds rows l / 4 and l / 4 + 8; a word holds consecutive k, the first of them
   (numbers of a word) * (l % 4), and half of all k further on in the second pair of words. */
static void multiply(Thread **lanes, int operation) {
    const int numbers = operation == MMA_BF16 ? 2 : 4, depth = 8 * numbers;
    double a[16][32], b[32][8];
    for (int lane = 0; lane < LANES; lane++) {
        const uint32_t *words = lanes[lane]->fragments;
        for (int word = 0; word < 6; word++)
            for (int number = 0; number < numbers; number++) {
                const double value = operation == MMA_BF16 ? (double)bf16(words[word], number) : int8(words[word], number);
                const int k = lane % 4 * numbers + number;
                if (word < 4) a[lane / 4 + 8 * (word % 2)][k + depth / 2 * (word / 2)] = value;
                else b[k + depth / 2 * (word - 4)][lane / 4] = value;
            }
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int index = 0; index < 4; index++) {
            const int row = lane / 4 + 8 * (index / 2), column = lane % 4 * 2 + index % 2;
            double sum = 0;
            for (int k = 0; k < depth; k++) sum += a[row][k] * b[k][column];
            uint32_t *c = &lanes[lane]->fragments[6 + index];
            *c = operation == MMA_BF16 ? of_float((float)(sum + (double)to_float(*c))) : *c + (uint32_t)(int32_t)sum;
        }
}

static void shuffle(Thread **lanes, int operation) {
    for (uint32_t lane = 0; lane < LANES; lane++) {
        uint32_t *words = lanes[lane]->fragments;
        const uint32_t distance = words[1], other = operation == SHUFFLE_XOR ? lane ^ distance : lane - distance;
        words[3] = other < LANES;
        words[2] = lanes[words[3] ? other : lane]->fragments[0];
    }
}

static void release_warp(Block *block, uint32_t warp, Thread **lanes, uint32_t count) {
    const Thread *first = lanes[0];
    for (uint32_t lane = 1; lane < count; lane++)
        if (lanes[lane]->resume != first->resume) machine_fault(lanes[lane], "lanes of a warp are at different instructions for all of them");
    if (first->operation == SYNC) block->warp_epochs[warp]++;
    else if (count != LANES) machine_fault(lanes[0], "%s by %u lanes", first->operation < SHUFFLE_XOR ? "mma" : "a shuffle", count);
    else if (first->operation < SHUFFLE_XOR) multiply(lanes, first->operation);
    else shuffle(lanes, first->operation);
    for (uint32_t lane = 0; lane < count; lane++) lanes[lane]->state = AGAIN;
}

/* Whether any lane got further. */
static int run_warp(Block *block, uint32_t warp) {
    Thread *lanes[LANES];
    uint32_t count = 0;
    int moved = 0;
    for (uint32_t number = warp * LANES; number < block->size && number < (warp + 1) * LANES; number++) {
        Thread *thread = thread_of(block, number);
        if (thread->state == ENDED) continue;
        const uint32_t place = (uint32_t)machine_dice(count + 1);
        lanes[count++] = lanes[place];
        lanes[place] = thread;
    }
    for (uint32_t lane = 0; lane < count; lane++) {
        Thread *thread = lanes[lane];
        if (thread->state != AGAIN) continue;
        const uint32_t before = thread->resume;
        thread->state = block->launch->kernel->run(thread);
        if (thread->state == AGAIN && thread->resume == before && ++block->polled > MOST_POLLS) machine_fault(thread, "polls without end");
        moved = 1;
        if (thread->state == ENDED) block->alive--;
    }
    uint32_t waiting = 0;
    for (uint32_t number = warp * LANES; number < block->size && number < (warp + 1) * LANES; number++) {
        Thread *thread = thread_of(block, number);
        if (thread->state == WARP) lanes[waiting++] = thread; /* in the order of lanes */
        else if (thread->state != ENDED) return moved;
    }
    if (!waiting) return moved;
    release_warp(block, warp, lanes, waiting);
    return 1;
}

static void release_block(Block *block) {
    for (uint32_t number = 0; number < block->size; number++) {
        Thread *thread = thread_of(block, number);
        if (thread->state == ENDED) continue;
        if (thread->state != BLOCK) return;
    }
    for (uint32_t number = 0; number < block->size; number++)
        if (thread_of(block, number)->state == BLOCK) thread_of(block, number)->state = AGAIN;
    block->epoch++;
}

static int turn(Block *block) {
    int moved = 0;
    for (uint32_t index = 0; index < block->warps; index++) {
        const uint32_t other = index + (uint32_t)machine_dice(block->warps - index), warp = block->order[other];
        block->order[other] = block->order[index];
        block->order[index] = warp;
        moved |= run_warp(block, warp);
    }
    release_block(block);
    return moved;
}

static void *cleared(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) abort();
    return memory;
}

static Block *open_block(const Launch *launch, uint32_t number) {
    Block *block = cleared(1, sizeof *block);
    const Extent at = {number % launch->grid.x, number / launch->grid.x % launch->grid.y, number / launch->grid.x / launch->grid.y};
    *block = (Block){.launch = launch, .number = number, .size = launch->block.x * launch->block.y * launch->block.z, .epoch = 1};
    block->alive = block->size;
    block->warps = (block->size + LANES - 1) / LANES;
    block->warp_epochs = cleared(block->warps, sizeof *block->warp_epochs);
    block->order = cleared(block->warps, sizeof *block->order);
    for (uint32_t warp = 0; warp < block->warps; warp++) block->order[warp] = warp;
    block->shared_bytes = launch->kernel->static_shared + launch->dynamic_shared;
    block->shared = cleared(block->shared_bytes, 1);
    memset(block->shared, 0xCB, block->shared_bytes);
    block->words = cleared(block->shared_bytes / 4 + 1, sizeof *block->words);
    for (uint32_t word = 0; word < block->shared_bytes / 4 + 1; word++) block->words[word].writer = block->words[word].reader = block->words[word].copier = NOBODY;
    block->threads = cleared(block->size, launch->kernel->thread_bytes);
    for (uint32_t index = 0; index < block->size; index++) {
        Thread *thread = thread_of(block, index);
        memset(thread, 0xCB, launch->kernel->thread_bytes);
        *thread = (Thread){.block = block, .parameters = launch->parameters, .blocks = launch->grid, .threads = launch->block,
                           .block_at = at, .number = index, .dynamic_shared = launch->dynamic_shared, .state = AGAIN};
        thread->at = (Extent){index % launch->block.x, index / launch->block.x % launch->block.y, index / launch->block.x / launch->block.y};
    }
    return block;
}

static void close_block(Block *block) {
    for (uint32_t number = 0; number < block->size; number++) memory_end(thread_of(block, number));
    free(block->threads);
    free(block->words);
    free(block->shared);
    free(block->order);
    free(block->warp_epochs);
    free(block);
}

static void run_together(Block **blocks, uint32_t count) {
    uint32_t alive = count;
    while (alive) {
        int moved = 0;
        for (uint32_t index = 0; index < alive; index++) {
            const uint32_t other = index + (uint32_t)machine_dice(alive - index);
            Block *block = blocks[other];
            blocks[other] = blocks[index];
            blocks[index] = block;
            moved |= turn(block);
        }
        uint32_t left = 0;
        for (uint32_t index = 0; index < alive; index++) {
            Block *block = blocks[index];
            if (block->alive) {
                blocks[index] = blocks[left];
                blocks[left++] = block;
            }
        }
        if (!moved && left == alive) {
            for (uint32_t number = 0; number < blocks[0]->size; number++) {
                Thread *thread = thread_of(blocks[0], number);
                if (thread->state != ENDED) machine_fault(thread, "waits for threads that do not come");
            }
        }
        alive = left;
    }
}

int machine_launch(const Launch *launch) {
    const uint32_t count = launch->grid.x * launch->grid.y * launch->grid.z;
    const uint32_t together = launch->cooperative ? count : 1;
    Block **blocks = cleared(count, sizeof *blocks), **alive = cleared(count, sizeof *alive);
    uint32_t *order = cleared(count, sizeof *order);
    volatile int failed = 0;
    memory_begin();
    for (uint32_t index = 0; index < count; index++) {
        const uint32_t place = (uint32_t)machine_dice(index + 1);
        order[index] = order[place];
        order[place] = index;
    }
    volatile uint32_t first = 0;
    if (setjmp(gave_up)) failed = 1;
    while (!failed && first < count) {
        for (uint32_t index = 0; index < together; index++) alive[index] = blocks[index] = open_block(launch, order[first + index]);
        first += together;
        run_together(alive, together);
        for (uint32_t index = 0; index < together; index++) {
            close_block(blocks[index]);
            blocks[index] = 0;
        }
    }
    for (uint32_t index = 0; index < count; index++)
        if (blocks[index]) close_block(blocks[index]);
    free(order);
    free(alive);
    free(blocks);
    return failed;
}
