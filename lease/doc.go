// Package lease holds connection slots on lease: the node's side, which admits connections from slots that it holds
// (Manager), and the leader's side, which decides who holds how many (Server). Which package document follows is
// completed with the code.
package lease
