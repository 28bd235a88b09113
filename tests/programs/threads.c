/* Many threads, each with its own storage and its own count. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static __thread unsigned long own;
static atomic_int standing, wrong, over;

static void *work(void *argument) {
    unsigned long number = (unsigned long)argument;
    pid_t tid = gettid();
    own = number * 2654435761u + 1;
    atomic_fetch_add(&standing, 1);
    while (!atomic_load(&over))
        usleep(200000);
    if (own != number * 2654435761u + 1 || gettid() != tid)
        atomic_fetch_add(&wrong, 1);
    return argument;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 2000;
    pthread_t *handles = calloc(threads, sizeof *handles);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 * 1024);
    for (long index = 0; index < threads; index++)
        if (pthread_create(&handles[index], &attributes, work, (void *)index))
            return perror("pthread_create"), 1;
    while (atomic_load(&standing) < threads)
        usleep(1000);
    fclose(fopen("ready", "w"));
    while (access("go", F_OK))
        usleep(2000);
    atomic_store(&over, 1);
    for (long index = 0; index < threads; index++) {
        void *returned = NULL;
        if (pthread_join(handles[index], &returned) || returned != (void *)index)
            wrong++;
    }
    FILE *draft = fopen("draft", "w");
    fprintf(draft, "%d wrong\n", wrong);
    fclose(draft);
    return rename("draft", "done");
}
