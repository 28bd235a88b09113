/* Three threads that stand still in three ways, and data that a debugger should find. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct node {
    int value;
    struct node *next;
    char text[16];
};

int answer = 42;
const char *untouched = "in the file";
struct node *list;
char *shared;
__thread int mine;
static sem_t never, arrived;

static void *waiter(void *number) {
    mine = *(int *)number;
    sem_post(&arrived);
    sem_wait(&never);
    return 0;
}

/* Never returns, and keeps 2.5 in a vector register. */
static void *spinner(void *number) {
    mine = *(int *)number;
    sem_post(&arrived);
    double kept = 2.5;
    __asm__ volatile("movsd %0, %%xmm7\n1: pause\njmp 1b" : : "m"(kept) : "xmm7");
    return 0;
}

int main(void) {
    static int numbers[] = {71, 72};
    pthread_t threads[2];
    for (int index = 0; index < 3; index++) {
        struct node *node = calloc(1, sizeof *node);
        node->value = 10 * index;
        strcpy(node->text, "on the heap");
        node->next = list;
        list = node;
    }
    shared = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(shared + 8192, "shared memory");
    sem_init(&never, 0, 0);
    sem_init(&arrived, 0, 0);
    pthread_create(&threads[0], 0, waiter, &numbers[0]);
    pthread_create(&threads[1], 0, spinner, &numbers[1]);
    sem_wait(&arrived);
    sem_wait(&arrived);
    answer = 4711;
    fclose(fopen("ready", "w"));
    for (;;)
        pause();
}
