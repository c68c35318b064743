/* Device memory, shared memory, and copies on their way: every access is checked.

   A word that one thread writes and another touches without a barrier between is an error; in device memory
   this is told of threads of one block and, unless the launch is cooperative, of blocks. */
#define _GNU_SOURCE
#include "block.h"
#include <stdlib.h>
#include <sys/mman.h>

enum { GRANULE = 16, ALIGNMENT = 512, MOST_COPIES = 4096 };
static const uint64_t ARENA_BYTES = 1ull << 30;
static const unsigned char FRESH = 0xCB; /* what is not written before it is read shows */

/* Of a word of device memory in the launch that runs. */
typedef struct {
    uint32_t written_launch, written_block, written_thread, written_epoch;
    uint32_t read_launch, read_block; /* UINT32_MAX: by several */
} Trace;

typedef struct {
    uint64_t address, bytes, room;
} Piece;

static unsigned char *arena, *held; /* held: of each granule how many bytes are live */
static Trace *traces;
static Piece *pieces; /* by address */
static size_t piece_count, piece_room;
static uint64_t used;
static uint32_t launches;

struct Copies {
    struct { uint64_t to; uint32_t bytes, group; unsigned char data[16]; uint64_t from; uint32_t of_source; int late; } *list;
    uint32_t count, room, committed;
};

int memory_open(void) {
    if (arena) return 0;
    const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *base = mmap(0, ARENA_BYTES, PROT_READ | PROT_WRITE, how, -1, 0);
    void *live = mmap(0, ARENA_BYTES / GRANULE, PROT_READ | PROT_WRITE, how, -1, 0);
    void *seen = mmap(0, ARENA_BYTES / 4 * sizeof(Trace), PROT_READ | PROT_WRITE, how, -1, 0);
    if (base == MAP_FAILED || live == MAP_FAILED || seen == MAP_FAILED) return 1;
    held = live;
    traces = seen;
    arena = base;
    return 0;
}

static void mark(uint64_t at, uint64_t bytes, int live) {
    for (uint64_t first = 0; first < bytes; first += GRANULE) {
        uint64_t rest = bytes - first;
        held[(at + first) / GRANULE] = live ? (unsigned char)(rest < GRANULE ? rest : GRANULE) : 0;
    }
}

uint64_t machine_allocate(uint64_t bytes) {
    if (memory_open() || bytes == 0 || bytes > ARENA_BYTES) return 0;
    const uint64_t room = (bytes + 2 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; /* a gap behind each */
    if (piece_count == piece_room) {
        piece_room = piece_room ? 2 * piece_room : 256;
        pieces = realloc(pieces, piece_room * sizeof *pieces);
        if (!pieces) abort();
    }
    uint64_t at = ALIGNMENT;
    size_t place = 0;
    for (; place < piece_count && pieces[place].address < at + room; place++) at = pieces[place].address + pieces[place].room;
    if (at + room > ARENA_BYTES) return 0;
    memmove(pieces + place + 1, pieces + place, (piece_count - place) * sizeof *pieces);
    pieces[place] = (Piece){at, bytes, room};
    piece_count++;
    used += room;
    memset(arena + at, FRESH, bytes);
    mark(at, bytes, 1);
    return (uint64_t)(uintptr_t)arena + at;
}

int machine_free(uint64_t address) {
    for (size_t place = 0; place < piece_count; place++) {
        if ((uint64_t)(uintptr_t)arena + pieces[place].address != address) continue;
        mark(pieces[place].address, pieces[place].bytes, 0);
        used -= pieces[place].room;
        memmove(pieces + place, pieces + place + 1, (--piece_count - place) * sizeof *pieces);
        return 0;
    }
    return 1;
}

int machine_holds(uint64_t address, uint64_t bytes) {
    const uint64_t base = (uint64_t)(uintptr_t)arena;
    if (!arena || address < base || bytes > ARENA_BYTES || address - base > ARENA_BYTES - bytes) return 0;
    uint64_t at = address - base;
    const uint64_t end = at + bytes;
    while (at < end) {
        const uint64_t in = at % GRANULE, wanted = end - at < GRANULE - in ? end - at : GRANULE - in;
        if (held[at / GRANULE] < in + wanted) return 0;
        at += wanted;
    }
    return 1;
}

uint64_t machine_total_bytes(void) { return ARENA_BYTES; }
uint64_t machine_free_bytes(void) { return ARENA_BYTES - used; }

void memory_begin(void) { launches++; }

static Trace *trace_of(Thread *thread, uint64_t address, uint32_t bytes) {
    if (address % bytes) machine_fault(thread, "%u bytes at the odd address %#llx", bytes, (unsigned long long)address);
    if (!machine_holds(address, bytes)) machine_fault(thread, "%u bytes of memory at %#llx that is not live", bytes, (unsigned long long)address);
    return traces + (address - (uint64_t)(uintptr_t)arena) / 4;
}

static void check_write_before(Thread *thread, const Trace *trace, uint64_t address, const char *what) {
    if (trace->written_launch != launches) return;
    const Block *block = thread->block;
    const uint32_t other = trace->written_block;
    if (other != block->number) {
        if (!block->launch->cooperative)
            machine_fault(thread, "%s of %#llx, which block %u has written in this launch", what, (unsigned long long)address, other);
    } else if (trace->written_thread != thread->number && trace->written_epoch == block->epoch) {
        machine_fault(thread, "%s of %#llx, which thread %u has written since the last barrier", what, (unsigned long long)address, trace->written_thread);
    }
}

static void global_read(Thread *thread, uint64_t address, uint32_t bytes) {
    Trace *trace = trace_of(thread, address, bytes);
    for (uint32_t word = 0; word < (bytes + 3) / 4; word++, trace++) {
        check_write_before(thread, trace, address, "a read");
        const uint32_t own = thread->block->number;
        trace->read_block = trace->read_launch == launches && trace->read_block != own ? UINT32_MAX : own;
        trace->read_launch = launches;
    }
}

/* Bytes and halves share a word with other threads': only whole words are traced. Several threads may write
   the same, as flags are. */
static void global_write(Thread *thread, uint64_t address, uint32_t bytes, uint64_t value) {
    Trace *trace = trace_of(thread, address, bytes);
    const Block *block = thread->block;
    if (trace->written_launch == launches && !memcmp((void *)(uintptr_t)address, &value, bytes)) return;
    for (uint32_t word = 0; word < bytes / 4; word++, trace++) {
        check_write_before(thread, trace, address, "a write");
        if (trace->read_launch == launches && trace->read_block != block->number && !block->launch->cooperative)
            machine_fault(thread, "a write of %#llx, which another block has read in this launch", (unsigned long long)address);
        *trace = (Trace){launches, block->number, thread->number, block->epoch, trace->read_launch, trace->read_block};
    }
}

static Word *shared_words(Thread *thread, uint64_t address, uint32_t bytes) {
    Block *block = thread->block;
    if (address % bytes) machine_fault(thread, "%u bytes at the odd place %llu of shared memory", bytes, (unsigned long long)address);
    if (address + bytes > block->shared_bytes)
        machine_fault(thread, "%u bytes at %llu of %u bytes of shared memory", bytes, (unsigned long long)address, block->shared_bytes);
    return block->words + address / 4;
}

static int is_race(const Thread *thread, int32_t other, uint32_t epoch, uint32_t warp_epoch) {
    const Block *block = thread->block;
    const uint32_t warp = thread->number / LANES;
    if (other == NOBODY || other == (int32_t)thread->number || epoch != block->epoch) return 0;
    const int same = other >= 0 ? (uint32_t)other / LANES == warp : other != SEVERAL && (uint32_t)(-3 - other) == warp;
    return !same || warp_epoch == block->warp_epochs[warp];
}

static void shared_read(Thread *thread, uint64_t address, uint32_t bytes) {
    Word *word = shared_words(thread, address, bytes);
    const Block *block = thread->block;
    const int32_t own = (int32_t)thread->number;
    const uint32_t warp = thread->number / LANES;
    for (uint32_t index = 0; index < (bytes + 3) / 4; index++, word++) {
        if (word->copier != NOBODY) machine_fault(thread, "a read of shared memory at %llu, to which a copy of thread %d is on its way", (unsigned long long)address, word->copier);
        if (is_race(thread, word->writer, word->written_epoch, word->written_warp_epoch))
            machine_fault(thread, "a read of shared memory at %llu, which thread %d has written, without a barrier between", (unsigned long long)address, word->writer);
        if (word->read_epoch != block->epoch || word->reader == NOBODY) word->reader = own;
        else if (word->reader != own) {
            const int same = word->reader >= 0 ? (uint32_t)word->reader / LANES == warp : word->reader == -3 - (int32_t)warp;
            word->reader = same ? -3 - (int32_t)warp : SEVERAL;
        }
        word->read_epoch = block->epoch;
        word->read_warp_epoch = block->warp_epochs[warp];
    }
}

static void shared_write(Thread *thread, uint64_t address, uint32_t bytes) {
    Word *word = shared_words(thread, address, bytes);
    const Block *block = thread->block;
    for (uint32_t index = 0; index < (bytes + 3) / 4; index++, word++) {
        if (word->copier != NOBODY) machine_fault(thread, "a write of shared memory at %llu, to which a copy is on its way", (unsigned long long)address);
        if (is_race(thread, word->writer, word->written_epoch, word->written_warp_epoch) || is_race(thread, word->reader, word->read_epoch, word->read_warp_epoch))
            machine_fault(thread, "a write of shared memory at %llu, which thread %d wrote or thread %d read, without a barrier between", (unsigned long long)address, word->writer, word->reader);
        word->writer = (int32_t)thread->number;
        word->written_epoch = block->epoch;
        word->written_warp_epoch = block->warp_epochs[thread->number / LANES];
    }
}

static unsigned char *place_of(Thread *thread, int space, uint64_t address) {
    return space == SHARED ? thread->block->shared + address : (unsigned char *)(uintptr_t)address;
}

uint64_t machine_load(Thread *thread, int space, uint64_t address, uint32_t bytes) {
    (space == SHARED ? shared_read : global_read)(thread, address, bytes);
    uint64_t value = 0;
    memcpy(&value, place_of(thread, space, address), bytes);
    return value;
}

void machine_store(Thread *thread, int space, uint64_t address, uint32_t bytes, uint64_t value) {
    if (space == SHARED) shared_write(thread, address, bytes);
    else global_write(thread, address, bytes, value);
    memcpy(place_of(thread, space, address), &value, bytes);
}

void machine_add32(Thread *thread, uint64_t address, uint32_t value) {
    trace_of(thread, address, 4)->written_launch = 0;
    *(uint32_t *)(uintptr_t)address += value;
}

uint32_t machine_poll(Thread *thread, uint64_t address) {
    trace_of(thread, address, 4);
    return *(uint32_t *)(uintptr_t)address;
}

/* When the source is read, now or when it is waited for, is open; it arrives when it is waited for. */
void machine_copy(Thread *thread, uint64_t to, uint64_t from, uint32_t bytes, uint32_t of_source) {
    if (of_source > bytes) machine_fault(thread, "a copy of %u bytes from a source of %u", bytes, of_source);
    if (from % bytes) machine_fault(thread, "a copy from the odd address %#llx", (unsigned long long)from);
    if (of_source % 4) machine_fault(thread, "a copy of %u bytes, which are no words", of_source);
    for (uint32_t at = 0; at < of_source; at += 4) global_read(thread, from + at, 4);
    shared_write(thread, to, bytes);
    if (!thread->copies) {
        thread->copies = calloc(1, sizeof *thread->copies);
        if (!thread->copies) abort();
    }
    Copies *copies = thread->copies;
    if (copies->count == MOST_COPIES) machine_fault(thread, "%d copies are on their way", MOST_COPIES);
    if (copies->count == copies->room) {
        copies->room = copies->room ? 2 * copies->room : 16;
        copies->list = realloc(copies->list, copies->room * sizeof *copies->list);
        if (!copies->list) abort();
    }
    const uint32_t index = copies->count++;
    copies->list[index].to = to;
    copies->list[index].bytes = bytes;
    copies->list[index].group = copies->committed;
    copies->list[index].from = from;
    copies->list[index].of_source = of_source;
    copies->list[index].late = (int)machine_dice(2);
    memset(copies->list[index].data, 0, sizeof copies->list[index].data);
    if (of_source) memcpy(copies->list[index].data, (void *)(uintptr_t)from, of_source);
    memset(thread->block->shared + to, FRESH, bytes);
    for (uint32_t word = 0; word < bytes / 4; word++) thread->block->words[to / 4 + word].copier = (int32_t)thread->number;
}

void machine_commit(Thread *thread) {
    if (!thread->copies) {
        thread->copies = calloc(1, sizeof *thread->copies);
        if (!thread->copies) abort();
    }
    thread->copies->committed++;
}

void machine_wait(Thread *thread, uint32_t groups) {
    Copies *copies = thread->copies;
    if (!copies) return;
    uint32_t kept = 0;
    for (uint32_t index = 0; index < copies->count; index++) {
        if (copies->list[index].group + groups >= copies->committed) {
            copies->list[kept++] = copies->list[index];
            continue;
        }
        const uint64_t to = copies->list[index].to;
        if (copies->list[index].late && copies->list[index].of_source)
            memcpy(copies->list[index].data, (void *)(uintptr_t)copies->list[index].from, copies->list[index].of_source);
        memcpy(thread->block->shared + to, copies->list[index].data, copies->list[index].bytes);
        for (uint32_t word = 0; word < copies->list[index].bytes / 4; word++) {
            Word *own = thread->block->words + to / 4 + word;
            own->copier = NOBODY;
            own->writer = (int32_t)thread->number;
            own->written_epoch = thread->block->epoch;
            own->written_warp_epoch = thread->block->warp_epochs[thread->number / LANES];
        }
    }
    copies->count = kept;
}

void memory_end(Thread *thread) {
    if (!thread->copies) return;
    free(thread->copies->list);
    free(thread->copies);
    thread->copies = 0;
}
