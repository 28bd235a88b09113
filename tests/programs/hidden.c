/* Memory that is nowhere by name: of a file that was deleted, of a memfd, of the kernel; and much of it that is not there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

char *deleted, *memfd, *sparse;
int *vdso;

int main(void) {
    int file = open("gone", O_CREAT | O_RDWR, 0600);
    ftruncate(file, 40960);
    pwrite(file, "deleted content", 15, 8192);
    deleted = mmap(0, 40960, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    unlink("gone");
    deleted[4096] = 'w';
    int memory = memfd_create("hidden", 0);
    ftruncate(memory, 1 << 20);
    memfd = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    strcpy(memfd + 65536, "in a memfd");
    sparse = mmap(0, 1ul << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (unsigned long index = 0; index < 100; index++)
        sparse[index << 30] = 'a' + index % 26;
    vdso = (int *)getauxval(AT_SYSINFO_EHDR);
    raise(SIGSTOP);
    for (;;)
        pause();
}
