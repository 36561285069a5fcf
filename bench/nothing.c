/* nothing.c - a program that ends at once: what posix_spawn() starts.  Linked statically. */
int main(void)
{
	return 0;
}
