-- All of a project's leases are one hash: the field is the version, or empty for the whole project;
-- the value {token, owner, stage, info, created, expires}, times in milliseconds.
-- KEYS: the hash, the sorted set of projects that have leases.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local action, project, field, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local live, last = {}, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local lease = cjson.decode(all[i + 1])
  if lease.expires <= now then
    redis.call('HDEL', KEYS[1], all[i])
  else
    live[all[i]] = lease
    if lease.expires > last then last = lease.expires end
  end
end

local function keep(lease)
  redis.call('HSET', KEYS[1], field, cjson.encode(lease))
  if lease.expires > last then last = lease.expires end
  redis.call('PEXPIREAT', KEYS[1], string.format('%d', last))
  redis.call('ZADD', KEYS[2], string.format('%d', last), project)
end

local function drop()
  redis.call('HDEL', KEYS[1], field)
  live[field] = nil
  if next(live) == nil then redis.call('ZREM', KEYS[2], project) end
end

if next(live) == nil then redis.call('ZREM', KEYS[2], project) end

local own = live[field]
if action == 'acquire' then
  for version, lease in pairs(live) do
    local excludes = version == field or version == '' or field == ''
    -- The same token: the answer to the first attempt was lost.
    if excludes and not (version == field and lease.token == token) then
      return {0, version, cjson.encode(lease)}
    end
  end
  local lease = cjson.decode(ARGV[5])
  lease.token, lease.created, lease.expires = token, now, now + tonumber(ARGV[6])
  keep(lease)
  return {1}
elseif action == 'renew' then
  if not own or own.token ~= token then return {0} end
  own.stage, own.expires = ARGV[5], now + tonumber(ARGV[6])
  keep(own)
  return {1}
elseif action == 'release' then
  if not own or own.token ~= token then return {0} end
  drop()
  return {1}
elseif action == 'expire' then
  if not own then return {0} end
  drop()
  return {1, field, cjson.encode(own)}
end
local found = {1}
for version, lease in pairs(live) do
  table.insert(found, version)
  table.insert(found, cjson.encode(lease))
end
return found
