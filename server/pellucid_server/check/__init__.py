"""`pellucid-server check`: what a server would serve, found out without starting one."""
