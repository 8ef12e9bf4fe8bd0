package proxy

import "github.com/weirproxy/weir/proxy/socks5"

// socksReplies are the reasons in SOCKS5's terms. With a general failure, trying again may help.
var socksReplies = [reasonCount]socks5.Reply{
	reasonInternal:     socks5.GeneralFailure,
	reasonExhausted:    socks5.GeneralFailure,
	reasonNoLease:      socks5.GeneralFailure,
	reasonDraining:     socks5.GeneralFailure,
	reasonOverLimit:    socks5.GeneralFailure,
	reasonQueueFull:    socks5.GeneralFailure,
	reasonQueueTimeout: socks5.GeneralFailure,
	reasonBlocked:      socks5.NotAllowed,
	reasonClosed:       socks5.GeneralFailure,

	reasonClientDenied:  socks5.NotAllowed,
	reasonCredentials:   socks5.NotAllowed,
	reasonGuessing:      socks5.NotAllowed,
	reasonUnchecked:     socks5.GeneralFailure,
	reasonMalformed:     socks5.GeneralFailure,
	reasonProtocol:      socks5.GeneralFailure,
	reasonCommand:       socks5.CommandNotSupported,
	reasonAddressType:   socks5.AddressTypeNotSupported,
	reasonAddress:       socks5.NotAllowed,
	reasonHeadTimeout:   socks5.GeneralFailure,
	reasonHeadTooLarge:  socks5.GeneralFailure,
	reasonClientStalled: socks5.GeneralFailure,

	reasonProhibited:         socks5.NotAllowed,
	reasonLoop:               socks5.NotAllowed,
	reasonNode:               socks5.NotAllowed,
	reasonDNS:                socks5.HostUnreachable,
	reasonDNSTimeout:         socks5.HostUnreachable,
	reasonConnectionRefused:  socks5.ConnectionRefused,
	reasonConnectionTimeout:  socks5.TTLExpired,
	reasonConnectionBroken:   socks5.GeneralFailure,
	reasonUnroutable:         socks5.NetworkUnreachable,
	reasonUnavailable:        socks5.GeneralFailure,
	reasonNoResponse:         socks5.GeneralFailure,
	reasonWriteTimeout:       socks5.GeneralFailure,
	reasonBadResponse:        socks5.GeneralFailure,
	reasonResponseHeadTooBig: socks5.GeneralFailure,
}
