/* Threads, faults and the check of every access: place, size, alignment, permission. */
enum { FAULT_NONE, FAULT_PLACE, FAULT_ALIGNMENT, FAULT_READ_ONLY, FAULT_DIVISION, FAULT_BRANCH, FAULT_TRAP,
       FAULT_ENDED, FAULT_STUCK, FAULT_MASK, FAULT_LANE, FAULT_BARRIER, FAULT_MEMORY, FAULT_ASSERT };
enum { GLOBAL_SPACE, CONST_SPACE };
enum { READY, AT_BLOCK, AT_WARP, ENDED };

typedef struct { uint32_t x, y, z; } Dim;
typedef struct { uint64_t low, high; int32_t writable, space; } Range;
typedef struct { int32_t code, line; uint64_t address; uint32_t size; int32_t write; Dim tid, ctaid; } Fault;

typedef struct Thread {
    Dim tid, ctaid;
    uint32_t linear;              /* within the block */
    char *local;
    int state, line;              /* what it waits for, and where */
    uint32_t mask, barrier, number;
    ucontext_t first;             /* how it begins */
    jmp_buf here;                 /* where it waits */
    int begun;
} Thread;

#define MAX_RANGES 256
static struct {
    Dim ntid, nctaid;
    uint32_t threads;             /* of a block */
    const char *params;
    char *shared;
    uint64_t shared_size;
    Range ranges[MAX_RANGES];
    uint32_t range_count;
    Fault fault;
    jmp_buf stop;
} launch;

__attribute__((noinline, noreturn)) static void fault(Thread *t, int code, uint64_t address, uint32_t size, int write, int line) {
    launch.fault = (Fault){code, line, address, size, write, t->tid, t->ctaid};
    _longjmp(launch.stop, 1); }

/* The range that holds the access, or a fault; the hint is where this instruction found its last one. */
__attribute__((noinline)) static uint32_t find_range(Thread *t, uint64_t address, uint32_t size, int write, int space, int line) {
    for (uint32_t i = 0; i < launch.range_count; i++) {
        Range *r = &launch.ranges[i];
        if ((space >= 0 && r->space != space) || address < r->low || address + size > r->high || address + size < address) continue;
        if (write && !r->writable) fault(t, FAULT_READ_ONLY, address, size, write, line);
        return i; }
    fault(t, FAULT_PLACE, address, size, write, line); }

#define ALIGNED(T, ADDRESS, SIZE, WRITE, LINE) \
    if ((ADDRESS) & ((SIZE) - 1u)) fault(T, FAULT_ALIGNMENT, ADDRESS, SIZE, WRITE, LINE)
#define IN_RANGE(T, ADDRESS, SIZE, WRITE, SPACE, LINE) ({                                            \
    static uint32_t hint_;                                                                           \
    uint64_t address_ = (ADDRESS);                                                                   \
    Range *range_ = &launch.ranges[hint_];                                                           \
    if (hint_ >= launch.range_count || address_ < range_->low || address_ + (SIZE) > range_->high    \
        || ((WRITE) && !range_->writable) || ((SPACE) >= 0 && range_->space != (SPACE)))             \
        hint_ = find_range(T, address_, SIZE, WRITE, SPACE, LINE);                                   \
    ALIGNED(T, address_, SIZE, WRITE, LINE);                                                         \
    (char *)(uintptr_t)address_; })
#define at_global(T, ADDRESS, SIZE, WRITE, LINE) IN_RANGE(T, ADDRESS, SIZE, WRITE, GLOBAL_SPACE, LINE)
#define at_const(T, ADDRESS, SIZE, WRITE, LINE) IN_RANGE(T, ADDRESS, SIZE, WRITE, CONST_SPACE, LINE)

static inline char *at_shared(Thread *t, uint64_t offset, uint32_t size, int write, int line) {
    if (offset > launch.shared_size || size > launch.shared_size - offset) fault(t, FAULT_PLACE, offset, size, write, line);
    ALIGNED(t, offset, size, write, line);
    return launch.shared + offset; }
static inline int within(uint64_t address, uint32_t size, const char *start, uint64_t length) {
    uint64_t offset = address - (uint64_t)(uintptr_t)start;
    return offset <= length && size <= length - offset; }
static inline char *at_local(Thread *t, uint64_t address, uint32_t size, int write, int line) {
    if (!within(address, size, t->local, LOCAL_SIZE)) fault(t, FAULT_PLACE, address, size, write, line);
    ALIGNED(t, address, size, write, line);
    return (char *)(uintptr_t)address; }
static inline char *at_param(Thread *t, uint64_t address, uint32_t size, int write, int line) {
    if (write || !within(address, size, launch.params, PARAM_SIZE)) fault(t, FAULT_PLACE, address, size, write, line);
    ALIGNED(t, address, size, write, line);
    return (char *)(uintptr_t)address; }
#define at_generic(T, ADDRESS, SIZE, WRITE, LINE) ({                                                               \
    uint64_t generic_ = (ADDRESS);                                                                                 \
    within(generic_, SIZE, launch.shared, launch.shared_size)                                                      \
        ? at_shared(T, generic_ - (uint64_t)(uintptr_t)launch.shared, SIZE, WRITE, LINE)                           \
        : within(generic_, SIZE, (T)->local, LOCAL_SIZE) ? at_local(T, generic_, SIZE, WRITE, LINE)                \
        : !(WRITE) && within(generic_, SIZE, launch.params, PARAM_SIZE) ? at_param(T, generic_, SIZE, WRITE, LINE) \
        : IN_RANGE(T, generic_, SIZE, WRITE, -1, LINE); })

static inline int64_t div_s64(Thread *t, int64_t a, int64_t b, int line) {
    if (!b) fault(t, FAULT_DIVISION, 0, 0, 0, line);
    return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b; }
static inline int64_t rem_s64(Thread *t, int64_t a, int64_t b, int line) {
    if (!b) fault(t, FAULT_DIVISION, 0, 0, 0, line);
    return b == -1 ? 0 : a % b; }
static inline uint64_t div_u64(Thread *t, uint64_t a, uint64_t b, int line) {
    if (!b) fault(t, FAULT_DIVISION, 0, 0, 0, line);
    return a / b; }
static inline uint64_t rem_u64(Thread *t, uint64_t a, uint64_t b, int line) {
    if (!b) fault(t, FAULT_DIVISION, 0, 0, 0, line);
    return a % b; }

/* --- threads that wait for each other; machine.h runs them */
static void wait_here(Thread *t, int state);
static uint32_t block_count;      /* sum of what the threads gave at the last barrier */
static uint32_t warp_given[32][32], warp_taken[32][32];

__attribute__((unused)) static uint32_t block_meet(Thread *t, uint32_t barrier, uint32_t number, int line) {
    t->barrier = barrier; t->number = number; t->line = line;
    wait_here(t, AT_BLOCK);
    return block_count; }
__attribute__((unused)) static void warp_meet(Thread *t, uint32_t mask, uint32_t value, int line) {
    if (!(mask >> (t->linear & 31u) & 1u)) fault(t, FAULT_MASK, mask, 0, 0, line);
    t->mask = mask; t->line = line;
    warp_given[t->linear / 32u][t->linear & 31u] = value;
    wait_here(t, AT_WARP); }
#define warp_of(T, LANE) (warp_taken[(T)->linear / 32u][LANE])
__attribute__((unused)) static uint32_t warp_ballot(Thread *t, uint32_t mask, uint32_t predicate, int line) {
    warp_meet(t, mask, predicate, line);
    uint32_t votes = 0;
    for (uint32_t i = 0; i < 32; i++) if (mask >> i & 1u && warp_of(t, i)) votes |= 1u << i;
    return votes; }
enum { SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_BFLY, SHUFFLE_IDX };
__attribute__((unused)) static uint32_t warp_shuffle(Thread *t, uint32_t mask, int mode, uint32_t value, uint32_t b, uint32_t c,
                                                     int *valid, int line) {
    warp_meet(t, mask, value, line);
    int lane = t->linear & 31u, delta = b & 31u, segment = c >> 8 & 31u, last = c & 31u;
    int most = (lane & segment) | (last & ~segment), least = lane & segment, from;
    switch (mode) {
    case SHUFFLE_UP: from = lane - delta; *valid = from >= most; break;
    case SHUFFLE_DOWN: from = lane + delta; *valid = from <= most; break;
    case SHUFFLE_BFLY: from = lane ^ delta; *valid = from <= most; break;
    default: from = least | (delta & ~segment); *valid = from <= most; }
    if (!*valid) from = lane;
    if (!(mask >> from & 1u)) fault(t, FAULT_LANE, (uint64_t)from, 0, 0, line);
    return warp_of(t, from); }
