/* Stands, and with SIGUSR1 changes in ways that are told one by one. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void *sleeper(void *nothing) {
    for (;;)
        pause();
    return nothing;
}

static void mark(const char *name) {
    close(open(name, O_CREAT | O_WRONLY, 0666));
}

int main(void) {
    const size_t page = 4096, pages = 64;
    /* Between pages of other rights, so that the kernel does not make it one with memory of the C library. */
    char *memory = mmap(0, (pages + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory += page;
    mprotect(memory, pages * page, PROT_READ | PROT_WRITE);
    char *shared = mmap(0, pages * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *guarded = mmap(0, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t index = 0; index < 32; index++)
        memset(memory + index * page, 'a' + index % 26, page);
    memset(shared, 's', page);
    int log = open("log", O_CREAT | O_RDWR, 0666), closed = open("/dev/null", O_RDONLY);
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    sigprocmask(SIG_BLOCK, &wanted, 0);
    int child = fork();
    if (child == 0)
        sleeper(0);
    static char done[4096];
    strcat(getcwd(done, sizeof done - 16), "/changed");
    mark("ready");

    int signal;
    sigwait(&wanted, &signal);
    memory[3 * page] = 'X';                       /* three pages change */
    memory[4 * page + 17] = 'X';
    memory[31 * page + page - 1] = 'X';
    memset(memory + 40 * page, 'n', 2 * page);    /* two come */
    madvise(memory + 10 * page, 5 * page, MADV_DONTNEED); /* five go */
    shared[5] = 'X';
    mprotect(guarded, page, PROT_READ);
    mmap(0, 3 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    write(log, "hello", 5);
    close(closed);
    open("/etc/hostname", O_RDONLY | O_CLOEXEC);
    umask(0137);
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    limit.rlim_cur = 0;
    setrlimit(RLIMIT_CORE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 77;
    setrlimit(RLIMIT_NOFILE, &limit);
    chdir("/");
    pthread_t thread;
    pthread_create(&thread, 0, sleeper, 0);
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    if (fork() == 0)
        sleeper(0);
    mark(done);
    for (;;)
        pause();
}
