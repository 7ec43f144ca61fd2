#ifndef PROTOCOL_H
#define PROTOCOL_H

/* Says that the board is up, then answers commands for ever. */
void protocol_run(void);

#endif
