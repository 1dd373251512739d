/* The first process of a machine that exists to run a few programs: mounts what they read, runs one after the other and
   switches the machine off. /words has the words of each program, one a line, and a blank line after its last one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_WORDS = 64, LONGEST = 1024 };

static int run(char **words) {
  int status = -1;
  const pid_t child = fork();
  if (child == 0) {
    execv(words[0], words);
    _exit(127);
  }
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void) {
  char *words[MOST_WORDS + 1] = {NULL}, line[LONGEST];
  int count = 0;
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sys", "/sys", "sysfs", 0, NULL);
  setenv("EDGEBERT_EMULATED", "qemu-system counting instructions", 1);
  FILE *file = fopen("/words", "r");
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if (*line != '\0' && count < MOST_WORDS) {
      words[count++] = strdup(line);
      continue;
    }
    words[count] = NULL;
    if (count > 0) printf("\nended %d\n", run(words));
    fflush(stdout);
    count = 0;
  }
  printf("\noff\n");
  fflush(stdout);
  reboot(RB_POWER_OFF);
  return 1;
}
