package fsm

import "google.golang.org/protobuf/reflect/protoreflect"

// messagesIn lists a message and all that are set inside it.
func messagesIn(m protoreflect.Message) []protoreflect.Message {
	list := []protoreflect.Message{m}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				list = append(list, messagesIn(v.List().Get(i).Message())...)
			}
		default:
			list = append(list, messagesIn(v.Message())...)
		}
		return true
	})
	return list
}
