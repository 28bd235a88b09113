/* A program that needs nothing of a host but the kernel: no C library, no vDSO, no instruction beyond the first x86-64.
 *
 * It was frozen while it slept, waiting for a file `go` in its directory. Thawed, it finds that file, looks whether all that
 * it had is still there, and writes what is wrong, or `sound`, to `verdict`. */

typedef unsigned long u64;
typedef long i64;

static i64 call(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f) {
    register i64 r10 __asm__("r10") = d;
    register i64 r8 __asm__("r8") = e;
    register i64 r9 __asm__("r9") = f;
    i64 result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define CALL(number, ...) CALL_(number, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define CALL_(number, a, b, c, d, e, f, ...) \
    call(number, (i64)(a), (i64)(b), (i64)(c), (i64)(d), (i64)(e), (i64)(f))

enum {
    READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, MMAP = 9, SIGACTION = 13, SIGPROCMASK = 14, ACCESS = 21, NANOSLEEP = 35,
    GETPID = 39, SOCKETPAIR = 53, CLONE = 56, FORK = 57, EXIT = 60, WAIT4 = 61, KILL = 62, GETPPID = 110, GETTID = 186,
    FUTEX = 202, EXIT_GROUP = 231, EPOLL_WAIT = 232, EPOLL_CTL = 233, EVENTFD2 = 290, EPOLL_CREATE1 = 291, PIPE2 = 293,
    MEMFD_CREATE = 319, CLOSE_RANGE = 436, PWRITE64 = 18, PREAD64 = 17, RT_SIGPENDING = 127,
};

static const char *wrong;

static void check(int holds, const char *what) {
    if (!holds && !wrong)
        wrong = what;
}

static i64 length(const char *text) {
    i64 count = 0;
    while (text[count])
        count++;
    return count;
}

static int equal(const char *one, const char *two, i64 count) {
    for (i64 at = 0; at < count; at++)
        if (one[at] != two[at])
            return 0;
    return 1;
}

static void sleep_ms(i64 milliseconds) {
    i64 time[2] = {0, milliseconds * 1000000};
    CALL(NANOSLEEP, time, 0);
}

static void await_go(void) {
    while (CALL(ACCESS, "go", 0) != 0)
        sleep_ms(2);
}

/* What is in memory when it is frozen: written data of the program, and memory of its own. */
static u64 data[4096] = {1};
static volatile int handled;
static volatile int thread_says;
static i64 thread_id;

__asm__(".globl restorer\nrestorer:\n mov $15, %eax\n syscall\n");
extern void restorer(void);

static void handler(int signal) { handled = signal; }

struct action {
    void (*handler)(int);
    u64 flags;
    void (*restorer)(void);
    u64 mask;
};

/* A thread: starts on its own stack and never returns. */
__attribute__((used, aligned(16))) static char thread_stack[16384];

__attribute__((used)) static void thread_main(void) {
    thread_id = CALL(GETTID);
    await_go();
    i64 again = CALL(GETTID);
    thread_says = again == thread_id ? 1 : 2;
    CALL(FUTEX, &thread_says, 1, 1);
    for (;;)
        CALL(EXIT, 0);
}

/* clone(CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM): the child has an empty stack, so it must not return here. */
__asm__("start_thread:\n"
        " mov $0x50f00, %edi\n"
        " lea thread_stack+16384(%rip), %rsi\n"
        " xor %edx, %edx\n xor %r10d, %r10d\n xor %r8d, %r8d\n"
        " mov $56, %eax\n syscall\n"
        " test %eax, %eax\n jz 1f\n ret\n"
        "1: xor %ebp, %ebp\n call thread_main\n");
extern i64 start_thread(void);

struct event {
    unsigned events;
    u64 data;
} __attribute__((packed));

__attribute__((used)) static void run(void) {
    CALL(CLOSE_RANGE, 3, 0x7fffffff, 0); /* whatever it was started with */
    u64 *own = (u64 *)CALL(MMAP, 0, 1 << 16, 3, 0x22, -1, 0);
    volatile u64 *shared = (u64 *)CALL(MMAP, 0, 1 << 14, 3, 0x21, -1, 0);
    for (u64 at = 0; at < 4096; at++) {
        data[at] = at * 0x9e3779b97f4a7c15;
        own[at] = at ^ 0x5555;
    }
    int pipe[2], pair[2];
    u64 set = 1ul << (10 - 1), unset = 0;
    CALL(PIPE2, pipe, 0);
    CALL(WRITE, pipe[1], "half of a line", 14);
    CALL(SOCKETPAIR, 1, 2, 0, pair);
    CALL(WRITE, pair[0], "one message", 11);
    i64 memfd = CALL(MEMFD_CREATE, "golden", 0);
    CALL(PWRITE64, memfd, "in a memfd", 10, 5000);
    i64 event = CALL(EVENTFD2, 41, 0);
    i64 epoll = CALL(EPOLL_CREATE1, 0);
    struct event interest = {1, 0x1234567890ul};
    CALL(EPOLL_CTL, epoll, 1, pipe[0], &interest);
    struct action action = {handler, 0x04000000, restorer, 0};
    CALL(SIGACTION, 10, &action, 0, 8);
    CALL(SIGPROCMASK, 0, &set, 0, 8);
    i64 self = CALL(GETPID);
    CALL(KILL, self, 10);
    i64 child = CALL(FORK);
    if (child == 0) {
        shared[7] = 77;
        await_go();
        u64 one = 1;
        CALL(WRITE, event, &one, 8);
        i64 parent = CALL(GETPPID);
        CALL(EXIT_GROUP, parent == self && own[100] == (100 ^ 0x5555) ? 21 : 22);
    }
    check(start_thread() > 0, "no thread was made");
    while (shared[7] != 77 || !thread_id)
        sleep_ms(1);
    i64 ready = CALL(OPEN, "ready", 0x41, 0666);
    CALL(CLOSE, ready);

    await_go();
    char text[64];
    for (u64 at = 0; at < 4096; at++) {
        check(data[at] == at * 0x9e3779b97f4a7c15, "data of the program");
        check(own[at] == (at ^ 0x5555), "memory of its own");
    }
    check(shared[7] == 77, "shared memory");
    check(CALL(GETPID) == self, "its pid");
    struct event got = {0, 0};
    check(CALL(EPOLL_WAIT, epoll, &got, 1, 0) == 1 && got.data == 0x1234567890ul, "the epoll set");
    check(CALL(READ, pipe[0], text, 64) == 14 && equal(text, "half of a line", 14), "the pipe");
    check(CALL(READ, pair[1], text, 64) == 11 && equal(text, "one message", 11), "the socket");
    check(CALL(PREAD64, memfd, text, 64, 5000) == 10 && equal(text, "in a memfd", 10), "the memfd");
    u64 waiting = 0;
    CALL(RT_SIGPENDING, &waiting, 8);
    check(waiting == set && !handled, "the pending signal");
    CALL(SIGPROCMASK, 2, &unset, 0, 8);
    check(handled == 10, "the signal's handler");
    int status = 0;
    check(CALL(WAIT4, child, &status, 0, 0) == child && status == 21 << 8, "the child");
    u64 count = 0;
    check(CALL(READ, event, &count, 8) == 8 && count == 42, "the eventfd");
    while (!thread_says)
        sleep_ms(1);
    check(thread_says == 1, "the thread");

    const char *verdict = wrong ? wrong : "sound";
    i64 file = CALL(OPEN, "verdict", 0x41, 0666);
    CALL(WRITE, file, verdict, length(verdict));
    CALL(CLOSE, file);
    CALL(EXIT_GROUP, wrong ? 1 : 0);
}

__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call run\n");
