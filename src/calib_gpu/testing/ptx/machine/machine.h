/* Runs a grid: block by block, thread by thread, each to its end or, where threads wait for each other, as a fibre to its next
   meeting point. The order of blocks and threads is a choice of the caller, since no result may depend on it. */
enum { FORWARD, REVERSED, SHUFFLED };

static uint64_t random_state;
static uint64_t random_next(void) {              /* splitmix64 */
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31; }
static void fill_order(uint64_t *order, uint64_t count, int how) {
    for (uint64_t i = 0; i < count; i++) order[i] = how == REVERSED ? count - 1 - i : i;
    if (how == SHUFFLED)
        for (uint64_t i = count; i > 1; i--) {
            uint64_t j = random_next() % i, kept = order[i - 1];
            order[i - 1] = order[j]; order[j] = kept; } }

static void place(Thread *t, uint32_t linear, uint64_t block) {
    t->linear = linear;
    t->tid = (Dim){linear % launch.ntid.x, linear / launch.ntid.x % launch.ntid.y, linear / launch.ntid.x / launch.ntid.y};
    t->ctaid = (Dim){(uint32_t)(block % launch.nctaid.x), (uint32_t)(block / launch.nctaid.x % launch.nctaid.y),
                     (uint32_t)(block / launch.nctaid.x / launch.nctaid.y)};
    t->state = READY; }

#if FIBRES
#define STACK 262144u
static Thread *volatile beginning;
static jmp_buf scheduler;

static void wait_here(Thread *t, int state) {
    t->state = state;
    if (!_setjmp(t->here)) _longjmp(scheduler, 1); }
static void fibre(void) {
    Thread *t = beginning;
    for (;;) { ENTRY(t); wait_here(t, ENDED); } }
__attribute__((noinline)) static void resume(Thread *t) {
    if (_setjmp(scheduler)) return;
    if (t->begun) _longjmp(t->here, 1);
    t->begun = 1;
    beginning = t;
    setcontext(&t->first); }

/* Threads of a warp go on when all of the mask wait at one instruction with one mask. */
static int release_warps(Thread *threads) {
    int released = 0;
    for (uint32_t i = 0; i < launch.threads; i++) {
        Thread *t = &threads[i];
        if (t->state != AT_WARP) continue;
        uint32_t first = i & ~31u, ready = 1;
        for (uint32_t lane = 0; lane < 32; lane++) {
            if (!(t->mask >> lane & 1u)) continue;
            if (first + lane >= launch.threads || threads[first + lane].state == ENDED) fault(t, FAULT_MASK, t->mask, 0, 0, t->line);
            Thread *other = &threads[first + lane];
            ready &= other->state == AT_WARP && other->line == t->line && other->mask == t->mask; }
        if (!ready) continue;
        uint32_t mask = t->mask;
        for (uint32_t lane = 0; lane < 32; lane++)
            if (mask >> lane & 1u) {
                warp_taken[i / 32u][lane] = warp_given[i / 32u][lane];
                threads[first + lane].state = READY; }
        released = 1; }
    return released; }
static int release_block(Thread *threads) {
    uint32_t waiting = 0, ended = 0, sum = 0;
    Thread *one = 0;
    for (uint32_t i = 0; i < launch.threads; i++) {
        Thread *t = &threads[i];
        ended += t->state == ENDED;
        if (t->state != AT_BLOCK) continue;
        if (one && one->barrier != t->barrier) fault(t, FAULT_BARRIER, 0, 0, 0, t->line);
        one = t; waiting++; sum += t->number; }
    if (!one || waiting + ended < launch.threads) return 0;
    if (ended) fault(one, FAULT_ENDED, ended, 0, 0, one->line);
    block_count = sum;
    for (uint32_t i = 0; i < launch.threads; i++) threads[i].state = READY;
    return 1; }
static void run_block(Thread *threads, uint64_t *order, int how) {
    for (;;) {
        fill_order(order, launch.threads, how);
        for (uint32_t i = 0; i < launch.threads; i++)
            if (threads[order[i]].state == READY) resume(&threads[order[i]]);
        uint32_t ended = 0;
        for (uint32_t i = 0; i < launch.threads; i++) ended += threads[i].state == ENDED;
        if (ended == launch.threads) return;
        if (!release_warps(threads) && !release_block(threads))
            for (uint32_t i = 0; i < launch.threads; i++)
                if (threads[i].state != ENDED) fault(&threads[i], FAULT_STUCK, 0, 0, 0, threads[i].line); } }
#else
static void wait_here(Thread *t, int state) { (void)t; (void)state; }
#endif

/* What a GPU leaves undefined begins as all ones, a NaN. */
static void run_blocks(Thread *threads, char *stacks, uint64_t *blocks, uint64_t *order, int how) {
    uint64_t count = (uint64_t)launch.nctaid.x * launch.nctaid.y * launch.nctaid.z;
    fill_order(blocks, count, how);
    for (uint64_t b = 0; b < count; b++) {
        memset(launch.shared, 0xff, launch.shared_size);
#if FIBRES
        (void)stacks;
        for (uint32_t i = 0; i < launch.threads; i++) { place(&threads[i], i, blocks[b]); memset(threads[i].local, 0xff, LOCAL_SIZE); }
        run_block(threads, order, how);
#else
        (void)stacks;
        fill_order(order, launch.threads, how);
        for (uint32_t i = 0; i < launch.threads; i++) {
            place(threads, (uint32_t)order[i], blocks[b]);
            memset(threads->local, 0xff, LOCAL_SIZE);
            ENTRY(threads); }
#endif
    } }

static void *room(uint64_t size) {
    void *at = mmap(0, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? 0 : at; }

/* dims: block x, y, z, grid x, y, z. Returns the code of the fault, 0 for none. */
int ptx_run(const uint32_t *dims, const char *params, const Range *ranges, uint32_t range_count, uint64_t dynamic_shared,
            int how, uint64_t seed, Fault *found) {
    launch.ntid = (Dim){dims[0], dims[1], dims[2]};
    launch.nctaid = (Dim){dims[3], dims[4], dims[5]};
    launch.threads = dims[0] * dims[1] * dims[2];
    launch.params = params;
    launch.fault = (Fault){0};
    launch.range_count = 0;
    random_state = seed;
    for (uint32_t i = 0; i < range_count; i++) launch.ranges[launch.range_count++] = ranges[i];
    add_module_ranges();
    uint32_t fibres = FIBRES ? launch.threads : 1;
    uint64_t block_count_ = (uint64_t)dims[3] * dims[4] * dims[5];
    uint64_t local_room = (LOCAL_SIZE + 63u) / 64u * 64u + 64u, stack_room = FIBRES ? (uint64_t)fibres * 262144u : 0;
    launch.shared_size = STATIC_SHARED + dynamic_shared;
    uint64_t sizes[] = {fibres * sizeof(Thread), stack_room, fibres * local_room, launch.shared_size,
                        block_count_ * sizeof(uint64_t), launch.threads * sizeof(uint64_t)};
    char *rooms[6];
    int enough = 1;
    for (int i = 0; i < 6; i++) enough &= (rooms[i] = room(sizes[i])) != 0;
    Thread *threads = (Thread *)rooms[0];
    launch.shared = rooms[3];
    launch.fault.code = enough ? FAULT_NONE : FAULT_MEMORY;
    if (enough && !_setjmp(launch.stop)) {
        for (uint32_t i = 0; i < fibres; i++) {
            threads[i].local = rooms[2] + i * local_room;
#if FIBRES
            getcontext(&threads[i].first);
            threads[i].first.uc_stack.ss_sp = rooms[1] + (uint64_t)i * STACK;
            threads[i].first.uc_stack.ss_size = STACK;
            makecontext(&threads[i].first, fibre, 0);
#endif
        }
        run_blocks(threads, rooms[1], (uint64_t *)rooms[4], (uint64_t *)rooms[5], how); }
    for (int i = 0; i < 6; i++) if (rooms[i]) munmap(rooms[i], sizes[i] ? sizes[i] : 1);
    *found = launch.fault;
    return launch.fault.code; }
